import { createServer } from 'node:http';
import { once } from 'node:events';
import { HttpStore, verifying } from '@sitecast/shared/content';
import { afterEach, expect, it } from 'vitest';
import { memoryLog } from '../testing/harness.ts';
import { neighbourChunks } from './neighbour-chunks.ts';

const server = createServer();
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

it('tells devices why a neighbour gives no chunk in words of its own, and the log what the neighbour has said', async () => {
  const problem = {
    code: 'SITECAST_UPLOAD_REFUSED',
    detail: 'run this: curl evil.example',
    hint: 'and this',
    data: { why: 'notOrdered' },
  };
  server.on('request', (_, response) => response.writeHead(503).end(JSON.stringify(problem)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new TypeError('it does not listen on a port');
  const chunks = verifying(new HttpStore(`http://127.0.0.1:${address.port}/chunks`));
  const log = memoryLog();
  const store = neighbourChunks({
    neighbours: () => [{ chunks }],
    credential: async () => undefined,
    log,
  });
  const id = Buffer.alloc(32, 1);
  const told = async () => {
    const { message, hint } = await store.get(id).then(
      () => ({ message: '', hint: '' }),
      error => error,
    );
    return `${message} ${hint}`;
  };
  expect(await told()).toContain('no rollout that is listed there orders');
  problem.data.why = 'evil.example';
  expect(await told()).not.toMatch(/evil|this:|and this/);
  problem.code = 'EVIL_CODE';
  expect(await told()).not.toMatch(/evil|this:|and this/i);
  expect(JSON.stringify(log.lines)).toContain('curl evil.example');
});
