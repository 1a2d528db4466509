// A seeded breach: see check.mjs.
export * from '@sitecast/gateway';
