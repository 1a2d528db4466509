import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Chunk, chunkIdOf, chunkIdToHex } from '@sitecast/shared/content';
import { Keyspace } from '@sitecast/shared/key-value';
import { afterEach, expect, it } from 'vitest';
import { DiskFrames } from '../adapters/disk-frames.ts';
import { openDatabase } from '../database.ts';
import { DiskCache } from './disk-cache.ts';

const PLAIN = Buffer.from('a chunk');
const BEGIN_MS = Date.UTC(2026, 0, 1);
const log = { debug() {}, info() {}, warn() {}, error() {} };

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

it('writes down the use of a chunk that many ask for once a minute', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-test-'));
  cleanUps.push(() => rm(directory, { recursive: true }));
  let passedS = 0;
  const now = () => BEGIN_MS + passedS * 1000;
  const database = await openDatabase(directory, { now, log });
  cleanUps.push(() => database.close());
  const records = new Keyspace(database, 'chunks!');
  const disk = await DiskCache.open({
    files: await DiskFrames.open(join(directory, 'chunks')),
    records,
    isPinned: () => false,
    maxBytes: 1e6,
    reserveBytes: 0,
    now,
    log,
  });
  const chunk = Chunk.fromPlain(chunkIdOf(PLAIN), PLAIN);
  const hex = chunkIdToHex(chunk.id);
  await disk.put(chunk);
  const written = async (): Promise<unknown> => {
    disk.use(hex);
    await disk.flush();
    return records.get(`c:${hex}`);
  };
  const lengthBytes = chunk.frame().length;
  const recordAt = (s: number) => [lengthBytes, BEGIN_MS + s * 1000];
  passedS = 10;
  expect(await written()).toEqual(recordAt(10));
  passedS = 69;
  expect(await written()).toEqual(recordAt(10));
  passedS = 70;
  await disk.flush();
  expect(await written()).toEqual(recordAt(70));
});
