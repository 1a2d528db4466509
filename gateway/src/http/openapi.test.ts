import { afterAll, afterEach, expect, it } from 'vitest';
import { GatewayHarness, removeTemporaryDirectories } from '../testing/harness.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

/** The same characters with a line break before each operation and each schema, so that a difference shows where it is. */
const inLines = (document: string): string =>
  document.replaceAll(/("\/[^"]*":\{"(?:get|put|post|patch|delete)":|"[A-Z]\w+":\{)/g, '\n$1');

// `npx vitest run gateway/src/http/openapi.test.ts -u` records the document again.
it('serves the recorded OpenAPI document, byte for byte', async () => {
  const gateway = await harness.gateway(await harness.origin(), {}, { isReadyFirst: false });
  const { body } = await gateway.get('openapi.json');
  await expect(`${inLines(body.toString())}\n`).toMatchFileSnapshot('openapi.recorded.txt');
});
