/** Registers one test with a test runner (vitest's `it`). */
export type Test = (name: string, body: () => Promise<void>) => void;

/** Gives each test what `open` opens, and closes it afterwards. */
export const withOpened =
  <T extends { close: () => Promise<void> }>(test: Test, open: () => Promise<T>) =>
  (name: string, body: (opened: T) => Promise<void>): void =>
    test(name, async () => {
      const opened = await open();
      try {
        await body(opened);
      } finally {
        await opened.close();
      }
    });
