// A seeded breach: see check.mjs.
export * from '@sitecast/shared/key-value';
