import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Chunk } from '../chunk.ts';
import { chunkIdOf, chunkIdToHex, chunkPath, eachId } from '../chunk-id.ts';
import { ChunkIndex } from '../chunk-index.ts';
import {
  CASYNC_MAKE,
  needsProgram,
  noise,
  removeTemporaryDirectories,
  run,
  temporaryDirectory,
} from '../fixtures.ts';
import { MAX_FRAME_BYTES } from '../limits.ts';
import { chunkOf, testChunkStore, testWritableChunkStore } from './conformance.ts';
import { DirectoryStore, type DirectoryStoreOptions } from './directory-store.ts';

afterAll(removeTemporaryDirectories);

async function emptyStore(options: DirectoryStoreOptions = {}): Promise<DirectoryStore> {
  return DirectoryStore.create(join(await temporaryDirectory(), 'chunks'), options);
}

async function underTest() {
  const store = await emptyStore();
  const fill = async (chunks: readonly Chunk[]) => {
    for (const { id, frame } of chunks.map(chunk => ({ id: chunk.id, frame: chunk.frame() }))) {
      await mkdir(join(store.root, chunkPath(id), '..'), { recursive: true });
      await writeFile(store.pathOf(id), frame);
    }
  };
  return { store, fill, close: async () => {} };
}

describe('as every store', () => {
  testChunkStore(it, underTest);
});
describe('as every writable store', () => {
  testWritableChunkStore(it, underTest);
});

it('stores a frame at the path that casync uses, and leaves no other file', async () => {
  const store = await emptyStore();
  const { id } = chunkOf('a');
  await store.put(chunkOf('a'));
  expect(store.putFrameNow(chunkOf('b').id, chunkOf('b').frame())).toBe(true);
  expect(store.putFrameNow(chunkOf('b').id, chunkOf('b').frame())).toBe(false);
  const hex = chunkIdToHex(id);
  Chunk.fromFrame(id, await readFile(join(store.root, hex.slice(0, 4), `${hex}.cacnk`))).verify(1);
  expect(await readdir(join(store.root, '.partial'))).toEqual([]);
});

it('lists its chunks and ignores other files', async () => {
  const store = await emptyStore();
  const ids = ['a', 'b', 'c'].map(text => chunkOf(text).id);
  for (const text of ['a', 'b', 'c']) await store.put(chunkOf(text));
  await writeFile(join(store.root, 'README'), 'x');
  await mkdir(join(store.root, '0000'), { recursive: true });
  await writeFile(join(store.root, '0000', `${'ab'.repeat(32)}.cacnk`), 'in the wrong place');
  await writeFile(join(store.root, '0000', 'x.cacnk'), 'no id');
  expect([...store.ids()].map(chunkIdToHex).sort()).toEqual(ids.map(chunkIdToHex).sort());
});

it('says which of many ids are missing, in their order', async () => {
  const store = await emptyStore();
  const ids = Array.from({ length: 600 }, (_, at) => chunkOf(`chunk ${at}`).id);
  for (let at = 0; at < 600; at += 3) await store.put(chunkOf(`chunk ${at}`));
  const missing = await store.missing(Buffer.concat(ids));
  expect([...eachId(missing)].map(chunkIdToHex)).toEqual(
    ids.filter((_, at) => at % 3 !== 0).map(chunkIdToHex),
  );
  expect(await store.missing(Buffer.alloc(0))).toEqual(Buffer.alloc(0));
});

it('ignores the empty file that a power cut leaves, and replaces it', async () => {
  const store = await emptyStore();
  const chunk = chunkOf('a');
  await store.put(chunk);
  await truncate(store.pathOf(chunk.id), 0);
  expect(await store.has(chunk.id)).toBe(false);
  expect(await store.put(chunk)).toBe(true);
  (await store.get(chunk.id)).verify(1);
});

it('moves chunks from another store, and stops at one that is in neither', async () => {
  const staging = await emptyStore();
  const store = await emptyStore();
  for (const text of ['a', 'b', 'c']) await staging.put(chunkOf(text));
  await store.put(chunkOf('b'));
  const ids = Buffer.concat(['a', 'b', 'c'].map(text => Buffer.from(chunkOf(text).id)));
  expect(await store.adopt(ids, staging)).toBe(2);
  expect([...staging.ids()].map(chunkIdToHex)).toEqual([chunkIdToHex(chunkOf('b').id)]);
  for (const id of eachId(ids)) (await store.get(id)).verify(1);
  await expect(store.adopt(chunkOf('d').id, staging)).rejects.toMatchObject({
    code: 'SITECAST_CHUNK_NOT_FOUND',
    data: { id: chunkIdToHex(chunkOf('d').id) },
  });
});

it('deletes chunks, and what interrupted writers left', async () => {
  const store = await emptyStore();
  await store.put(chunkOf('a'));
  await writeFile(join(store.root, '.partial', 'left-1'), 'half a frame');
  await store.removePartials();
  expect(await readdir(join(store.root, '.partial'))).toEqual([]);
  await store.remove(chunkOf('a').id);
  await store.remove(chunkOf('a').id);
  expect(await store.has(chunkOf('a').id)).toBe(false);
  expect(await store.put(chunkOf('a'))).toBe(true);
});

it.each([
  ['is not installed', 'sitecast-no-such-program'],
  ['fails', 'false'],
])('syncs file by file where the sync program %s', async (_what, program) => {
  const store = await emptyStore({ syncCommand: [program] });
  for (const text of ['a', 'b', 'c']) await store.put(chunkOf(text));
  await store.remove(chunkOf('b').id);
  await expect(store.sync()).resolves.toBeUndefined();
  await expect(store.sync()).resolves.toBeUndefined();
  expect(await store.has(chunkOf('a').id)).toBe(true);
});

it('passes its root to the program that syncs a file system', async () => {
  const folder = await temporaryDirectory();
  const program = join(folder, 'sync');
  await writeFile(program, `#!/bin/sh\necho "$@" >${folder}/called\n`);
  await chmod(program, 0o755);
  const store = await emptyStore({ syncCommand: [program, '-f'] });
  await store.sync();
  expect(await readFile(join(folder, 'called'), 'utf8')).toBe(`-f ${store.root}\n`);
});

it('refuses a frame longer than any chunk can have, to write and to read', async () => {
  const store = await emptyStore();
  const { id } = chunkOf('a');
  const atBound = Chunk.fromFrame(chunkOf('b').id, Buffer.alloc(MAX_FRAME_BYTES));
  const over = Buffer.alloc(MAX_FRAME_BYTES + 1);
  const tooLarge = { code: 'SITECAST_FRAME_TOO_LARGE' };
  expect(await store.put(atBound)).toBe(true);
  expect((await store.get(atBound.id)).frame().length).toBe(MAX_FRAME_BYTES);
  await expect(store.put(Chunk.fromFrame(id, over))).rejects.toMatchObject(tooLarge);
  expect(() => store.putFrameNow(id, over)).toThrow(expect.objectContaining(tooLarge));
  await store.put(chunkOf('a'));
  await writeFile(store.pathOf(id), over);
  await expect(store.get(id)).rejects.toMatchObject(tooLarge);
});

it('reports a full disk, and leaves no partial file', async context => {
  const folder = await temporaryDirectory();
  const mountPoint = join(folder, 'full');
  await mkdir(mountPoint);
  try {
    await run('mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', mountPoint);
  } catch {
    context.skip('mounting a small file system needs root');
  }
  try {
    const store = await DirectoryStore.create(join(mountPoint, 'chunks'));
    const large = noise(300_000, 1);
    const chunk = Chunk.fromPlain(chunkIdOf(large), large);
    await expect(store.put(chunk)).rejects.toMatchObject({ code: 'SITECAST_NO_SPACE', kind: 'noSpace' });
    expect(() => store.putFrameNow(chunk.id, chunk.frame())).toThrow(
      expect.objectContaining({ code: 'SITECAST_NO_SPACE' }),
    );
    expect(await readdir(join(store.root, '.partial'))).toEqual([]);
    expect(await store.has(chunk.id)).toBe(false);
    expect(await store.put(chunkOf('small'))).toBe(true);
  } finally {
    await run('umount', mountPoint);
  }
});

it('opens an existing directory and creates none', async () => {
  const folder = await temporaryDirectory();
  const refusal = { code: 'SITECAST_STORE_NOT_FOUND', kind: 'notFound' };
  await expect(DirectoryStore.open(join(folder, 'absent'))).rejects.toMatchObject(refusal);
  await writeFile(join(folder, 'file'), '');
  await expect(DirectoryStore.open(join(folder, 'file'))).rejects.toMatchObject(refusal);
  expect((await DirectoryStore.open(folder)).root).toBe(folder);
  expect(existsSync(join(folder, '.partial'))).toBe(false);
});

it('reads the store that casync makes', async context => {
  needsProgram(context, 'casync', '--version');
  const folder = await temporaryDirectory();
  const image = Buffer.concat([noise(500_000, 5), Buffer.alloc(700_000, 'text '), noise(100_000, 6)]);
  await writeFile(join(folder, 'image'), image);
  await run('casync', ...CASYNC_MAKE, `--store=${folder}/s.castr`, `${folder}/i.caibx`, `${folder}/image`);
  const index = ChunkIndex.decode(await readFile(join(folder, 'i.caibx')));
  const store = await DirectoryStore.open(join(folder, 's.castr'));
  const parts: Uint8Array[] = [];
  for (const { id, lengthBytes } of index.places()) {
    parts.push((await store.get(id)).verify(lengthBytes).plain());
  }
  expect(Buffer.concat(parts).equals(image)).toBe(true);
});
