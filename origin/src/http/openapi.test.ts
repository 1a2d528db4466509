import { expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { temporaryOrigin } from '../testing/setup.ts';

/** The same characters with a line break before each operation and each schema, so that a difference shows where it is. */
const inLines = (document: string): string =>
  document.replaceAll(/("\/[^"]*":\{"(?:get|put|post|patch|delete)":|"[A-Z]\w+":\{)/g, '\n$1');

// `npx vitest run origin/src/http/openapi.test.ts -u` records the document again.
it('serves the recorded OpenAPI document, byte for byte', async () => {
  const origin = await temporaryOrigin(path => ({
    ...testDisk(path),
  }));
  try {
    const served = await (await origin.app.request('/openapi.json')).text();
    await expect(`${inLines(served)}\n`).toMatchFileSnapshot('openapi.recorded.txt');
  } finally {
    await origin.remove();
  }
});
