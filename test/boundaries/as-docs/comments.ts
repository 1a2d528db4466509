/** A seeded comment, see check-docs.mjs: `shared/src/errors.ts` `SitecastError` is there. */
// violation: `shared/src/no-such-file.ts`
/**
 * violation: `shared/src/errors.ts` `NoSuchSymbol`
 */
export const text = '`shared/src/no-such-file.ts` in a text is no comment';
