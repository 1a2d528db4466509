import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ChunkIndex, ChunkIndexBuilder, chunkIdOf, DEFAULT_CHUNK_SIZES } from '@sitecast/shared/content';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileSlot } from '../adapters/file-slot.ts';
import type { SlotReader } from '../ports.ts';
import { SlotChunks } from './shared-slots.ts';

const CHUNK_BYTES = 20_000;
const plain = Array.from({ length: 50 }, () => randomBytes(CHUNK_BYTES));
const ids = plain.map(bytes => chunkIdOf(bytes));

let directory: string;
let index: ChunkIndex;
let reader: SlotReader;
let chunks: SlotChunks;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slot-'));
  const path = join(directory, 'slot.img');
  await writeFile(path, Buffer.concat(plain));
  const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
  ids.forEach((id, at) => builder.add(id, (at + 1) * CHUNK_BYTES));
  index = builder.finish();
  const opened = await new FileSlot(path).openForReading();
  if (!opened) throw new Error('there is no slot');
  reader = opened;
  chunks = new SlotChunks('slot B', index, reader);
});
afterEach(async () => {
  await reader.close();
  await rm(directory, { recursive: true });
});

it('reads each chunk at its offset, many at one time', async () => {
  const found = await Promise.all(ids.map(async id => (await chunks.get(id)).plain()));
  expect(found.map((bytes, at) => Buffer.from(bytes).equals(plain[at] ?? Buffer.alloc(0)))).toEqual(
    ids.map(() => true),
  );
});

it('has no chunk of another image', async () => {
  const other = chunkIdOf(randomBytes(10));
  expect(await chunks.has(other)).toBe(false);
  await expect(chunks.get(other)).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
});

it('returns no chunk that has changed in the slot, until it is right again', async () => {
  const [first = Buffer.alloc(0), ...others] = plain;
  const [id = Buffer.alloc(32)] = ids;
  const path = join(directory, 'slot.img');
  await writeFile(path, Buffer.concat([randomBytes(CHUNK_BYTES), ...others]));
  await expect(chunks.get(id)).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
  await writeFile(path, Buffer.concat([first, ...others]));
  expect(Buffer.from((await chunks.get(id)).plain()).equals(first)).toBe(true);
});

it('returns no chunk beyond the end of the slot', async () => {
  await writeFile(join(directory, 'slot.img'), Buffer.concat(plain.slice(0, 1)));
  await expect(chunks.get(ids[49] ?? Buffer.alloc(32))).rejects.toMatchObject({
    code: 'SITECAST_CHUNK_NOT_FOUND',
  });
});
