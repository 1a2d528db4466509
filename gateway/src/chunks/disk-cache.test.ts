import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Chunk, type ChunkId, chunkIdOf, chunkIdToHex, chunkPath } from '@sitecast/shared/content';
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

async function openDisk() {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-test-'));
  cleanUps.push(() => rm(directory, { recursive: true }));
  const clock = { passedS: 0 };
  const now = () => BEGIN_MS + clock.passedS * 1000;
  const database = await openDatabase(directory, { now, log });
  cleanUps.push(() => database.close());
  const records = new Keyspace(database, 'chunks!');
  const chunks = join(directory, 'chunks');
  const disk = await DiskCache.open({
    files: await DiskFrames.open(chunks),
    records,
    isPinned: () => false,
    maxBytes: 1e6,
    reserveBytes: 0,
    now,
    log,
  });
  return { disk, records, clock, pathOf: (id: ChunkId) => join(chunks, chunkPath(id)) };
}

it('writes down the use of a chunk that many ask for once a minute', async () => {
  const { disk, records, clock } = await openDisk();
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
  clock.passedS = 10;
  expect(await written()).toEqual(recordAt(10));
  clock.passedS = 69;
  expect(await written()).toEqual(recordAt(10));
  clock.passedS = 70;
  await disk.flush();
  expect(await written()).toEqual(recordAt(70));
});

it('does not take a file that was there for the one that it would have written', async () => {
  const { disk, pathOf } = await openDisk();
  const chunk = Chunk.fromPlain(chunkIdOf(PLAIN), PLAIN);
  const { id } = chunk;
  const frame = Buffer.from(chunk.frame());
  const sentAtOnce = () => disk.frame(id, chunkIdToHex(id));
  // A power cut can leave the right length, with zeros, and no record.
  await mkdir(dirname(pathOf(id)));
  await writeFile(pathOf(id), Buffer.alloc(frame.length));
  await disk.put(chunk);
  expect(sentAtOnce()).toBeUndefined();
  await expect(disk.get(id)).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
  await disk.put(chunk);
  expect(sentAtOnce()).toEqual(frame);
});
