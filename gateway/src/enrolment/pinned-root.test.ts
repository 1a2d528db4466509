import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { portOf } from '@sitecast/shared/outbound/testing';
import { KeyPair } from '@sitecast/shared/signing';
import { HttpFetcher, MemoryMetadataStore } from '@sitecast/shared/trust';
import { TestRepository } from '@sitecast/shared/trust/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Source, Sources } from '../mirror/sources.ts';
import { memoryLog } from '../testing/harness.ts';
import { pinRoot } from './pinned-root.ts';

let repository: TestRepository;
let root: Uint8Array;
const endings: (() => void)[] = [];
beforeEach(async () => {
  repository = await TestRepository.create();
  root = repository.bytesOf('root', 1);
});
afterEach(() => endings.splice(0).forEach(end => end()));

/** A server, and how often it was asked. @param answer undefined: 404; `nothing`: it hangs */
async function server(answer: (asked: number) => Uint8Array | 'nothing' | undefined) {
  let asked = 0;
  const http = createServer((_, response) => {
    asked += 1;
    const bytes = answer(asked);
    if (bytes !== 'nothing') response.writeHead(bytes ? 200 : 404).end(bytes);
  });
  endings.push(() => http.close().closeAllConnections());
  await once(http.listen(0, '127.0.0.1'), 'listening');
  const url = `http://127.0.0.1:${portOf(http)}`;
  const files = new HttpFetcher(url);
  const source: Source = { url, metadata: files, targets: files };
  return { source, asked: () => asked };
}

type Server = Awaited<ReturnType<typeof server>>;

/** Pins the root that the token names. @returns the sources as they are afterwards */
async function pin(upstreams: Server[], neighbours: Server[], neighboursWithinMs?: number) {
  const sources = new Sources(
    upstreams.map(({ source }) => source),
    {
      ids: () => neighbours.map(({ source }) => source.url),
      source: id => {
        const found = neighbours.find(({ source }) => source.url === id);
        if (!found) throw new Error(`there is no ${id}`);
        return found.source;
      },
    },
  );
  const store = new MemoryMetadataStore();
  await pinRoot({
    store,
    rootFile: undefined,
    token: {
      origin: 'http://127.0.0.1:1',
      rootSha256: createHash('sha256').update(root).digest('hex'),
      pair: KeyPair.generate(),
    },
    sources,
    nowMs: Date.now(),
    log: memoryLog(),
    signal: new AbortController().signal,
    ...(neighboursWithinMs !== undefined && { neighboursWithinMs }),
  });
  expect([...store.files.values()].some(bytes => Buffer.compare(bytes, root) === 0)).toBe(true);
  return sources;
}

const hanging = () => server(() => 'nothing');
const right = () => server(() => root);

it('takes the first root of one neighbour while others hang, and waits for none of those', async () => {
  const silent = [await hanging(), await hanging()];
  await pin([], [...silent, await right()], 60_000);
  expect(silent.map(({ asked }) => asked()).every(asked => asked <= 1)).toBe(true);
});

it('lets neighbours rest that hang or give another root: each costs one attempt; one that has none yet is asked again', async () => {
  const useless = [
    await hanging(),
    await hanging(),
    await hanging(),
    await server(() => Buffer.from('{"signed":{}}')),
  ];
  const late = await server(asked => (asked < 4 ? undefined : root));
  const sources = await pin([], [...useless, late], 300);
  expect(useless.map(({ asked }) => asked())).toEqual([1, 1, 1, 1]);
  expect(late.asked()).toBe(4);
  expect(sources.forFirstRoot().neighbours.map(({ url }) => url)).toEqual([late.source.url]);
});

it('asks all upstreams at once, and neighbours only where none of these gives it', async () => {
  const silent = await hanging();
  const neighbour = await right();
  await pin([silent, await right()], [neighbour]);
  expect([silent.asked(), neighbour.asked()]).toEqual([1, 0]);
  await pin([await server(() => undefined)], [neighbour]);
  expect(neighbour.asked()).toBe(1);
});
