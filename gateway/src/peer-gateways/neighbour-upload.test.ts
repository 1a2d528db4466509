import { createServer } from 'node:http';
import { once } from 'node:events';
import { chunkPath, MAX_FRAME_BYTES, type ChunkId } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { ASSIGNMENT_HEADER, sealAssignment } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterAll, afterEach, expect, it } from 'vitest';
import { memoryLog, openTestDatabase, removeTemporaryDirectories, until } from '../testing/harness.ts';
import { WanLimits } from '../wan/wan-limits.ts';
import { DailyBudget } from './daily-budget.ts';
import { neighbourUpload } from './neighbour-upload.ts';

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});
afterAll(removeTemporaryDirectories);

const origin = KeyPair.generate();
const signers = { keys: { [origin.keyId]: origin.key }, keyids: [origin.keyId], threshold: 1 };
const { id: neighbour } = new Identity(KeyPair.generate());
const path = `/chunks/${chunkPath(Buffer.alloc(32, 1))}`;

/** A gateway that gives chunks over a link of 32 kB a second, to a neighbour that asks over HTTP. It has no chunk itself. */
async function giving(maxBytes: number, wait: (ms: number, signal?: AbortSignal) => Promise<unknown>) {
  const database = await openTestDatabase();
  const log = memoryLog();
  const now = () => Date.parse('2030-01-01T00:00:00Z');
  const budget = await DailyBudget.open({
    maxBytes,
    maxTotalBytes: 100 * maxBytes,
    records: database.records('budget'),
    now,
    log,
  });
  let fetched = 0;
  const upload = neighbourUpload({
    chunks: {
      isOrdered: () => true,
      atOnce: () => undefined,
      forNeighbours: {
        name: 'nowhere',
        has: async () => false,
        get: async (id: ChunkId) => {
          fetched += 1;
          throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', `none gives ${id.length}`);
        },
      },
    },
    budget,
    signers: () => signers,
    issuedMs: now,
    isRevoked: () => false,
    isOwnRevoked: () => false,
    wanLimits: new WanLimits({ wanRate: 32_000 }, { now, clock: () => 0, wait }),
    onSent: () => {},
    now,
    log,
  });
  const server = createServer((request, response) => void upload(request, response, neighbour));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closing.push(async () => {
    server.closeAllConnections();
    await new Promise(closed => server.close(closed));
    await database.close();
  });
  const envelope = await sealAssignment(assignmentFor(neighbour, { kind: 'gateway' }), origin);
  const shown = Buffer.from(JSON.stringify(envelope)).toString('base64');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new TypeError('it does not listen on a port');
  const ask = (signal?: AbortSignal) =>
    fetch(`http://127.0.0.1:${address.port}${path}`, {
      headers: { [ASSIGNMENT_HEADER]: shown },
      ...(signal && { signal }),
    });
  return { ask, budget, log, fetched: () => fetched };
}

it('takes no turn of the link for a neighbour whose bytes of the day are used up', async () => {
  let waits = 0;
  const { ask, log, fetched } = await giving(MAX_FRAME_BYTES - 1, async () => {
    waits += 1;
    throw new Error('the link is full');
  });
  for (let times = 0; times < 3; times += 1) {
    const answer = await ask();
    expect([answer.status, await answer.json()]).toMatchObject([503, { data: { why: 'usedUp' } }]);
  }
  expect([waits, fetched(), log.lines.length]).toEqual([0, 0, 3]);
});

it('ends the wait of a neighbour that leaves, which pays for the turns that it had and no more', async () => {
  let waiting = 0;
  const ended: unknown[] = [];
  const { ask, budget, log, fetched } = await giving(2 * MAX_FRAME_BYTES, (_, signal) => {
    waiting += 1;
    return new Promise((_resolve, reject) => {
      signal?.addEventListener('abort', () => {
        ended.push(signal.reason);
        reject(signal.reason);
      });
    });
  });
  const leaves = new AbortController();
  const answer = ask(leaves.signal);
  // One piece of 4096 bytes goes at once.
  await until(() => waiting === 1, 'it to wait');
  leaves.abort();
  await expect(answer).rejects.toThrow('abort');
  await until(() => ended.length === 1, 'the end of its wait');
  await new Promise(setImmediate);
  expect(budget.take(neighbour, 2 * MAX_FRAME_BYTES - 4095)).toBeUndefined();
  expect(budget.take(neighbour, 2 * MAX_FRAME_BYTES - 4096)).toBeDefined();
  expect([fetched(), log.lines]).toEqual([0, []]);
});
