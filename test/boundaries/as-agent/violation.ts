// A seeded violation: see check.mjs.
export * from '@sitecast/origin';
