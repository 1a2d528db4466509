import { createHash, randomBytes } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { ChunkCutter, ChunkIndexBuilder, chunkIdOf, DEFAULT_CHUNK_SIZES } from '@sitecast/shared/content';
import { applyPatch, decodeRecipe, targetIndexOf, windowsOf } from '@sitecast/shared/delta';
import { expect, it } from 'vitest';
import { composeDelta, composedWindow } from './compose-delta.ts';
import type { ImageSource, MadeWindow } from '../maker-port.ts';
import { makeDelta } from './make-delta.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Image extends ImageSource {
  readonly bytes: Buffer;
}

function imageOf(bytes: Buffer): Image {
  const cutter = new ChunkCutter(DEFAULT_CHUNK_SIZES);
  const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
  let start = 0;
  for (let at = cutter.next(bytes, 0, bytes.length); at !== -1; at = cutter.next(bytes, at, bytes.length)) {
    builder.add(chunkIdOf(bytes.subarray(start, at)), at);
    start = at;
  }
  if (start < bytes.length) builder.add(chunkIdOf(bytes.subarray(start)), bytes.length);
  return {
    bytes,
    index: builder.finish(),
    read: async (offset, lengthBytes) => bytes.subarray(offset, offset + lengthBytes),
  };
}

/** Random bytes can't be compressed: a frame is a little longer than its chunk. */
function frameBytesOf({ index }: Image): (chunk: number) => number {
  return chunk => index.lengthOf(chunk) + 20;
}

/** Two images of 3 MiB: a part of the second is moved, a part has changed addresses, and a part is new. */
function images(): { base: Image; target: Image } {
  const base = randomBytes(3 * MIB);
  const changed = Buffer.from(base.subarray(0, MIB));
  for (let at = 0; at < changed.length; at += 1000) changed[at] = (changed[at] ?? 0) + 1;
  const target = Buffer.concat([base.subarray(2 * MIB), Buffer.alloc(MIB), changed, randomBytes(60 * KIB)]);
  return { base: imageOf(base), target: imageOf(target) };
}

async function allOf(windows: AsyncIterable<MadeWindow>): Promise<MadeWindow[]> {
  const all: MadeWindow[] = [];
  for await (const window of windows) all.push(window);
  return all;
}

function sha256Of({ index }: Image): string {
  return createHash('sha256').update(index.encode()).digest('hex');
}

it('makes a recipe and patches from which the target is made', async () => {
  const { base, target } = images();
  const frameBytes = frameBytesOf(target);
  const made = await allOf(makeDelta({ niceness: 0, base, target, frameBytes }));
  const windows = made.flatMap(({ patch, ...window }) =>
    patch === undefined ? [] : [composedWindow({ ...window, patch })],
  );
  expect(windows.length).toBeGreaterThan(0);
  const head = {
    product: 'camera',
    from: { counter: 1, indexSha256: sha256Of(base) },
    to: { counter: 2, indexSha256: sha256Of(target) },
  };
  const indexes = { base: base.index, target: target.index };
  const { recipe, patchIndex, chunks } = await composeDelta(head, indexes, windows, frameBytes);
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks()) parts.push(chunk);
  const patches = Buffer.concat(parts);

  const read = decodeRecipe(recipe);
  expect(targetIndexOf(read, base.index).encode().equals(target.index.encode())).toBe(true);
  expect(patchIndex.lengthBytes).toBe(patches.length);
  for (const window of windowsOf(read, base.index, target.index)) {
    const { baseOffset, baseLength, targetOffset, targetLength, patchOffset, patchLength } = window;
    const rebuilt = applyPatch({
      patch: patches.subarray(patchOffset, patchOffset + patchLength),
      base: base.bytes.subarray(baseOffset, baseOffset + baseLength),
      targetLength,
    });
    expect(Buffer.compare(rebuilt, target.bytes.subarray(targetOffset, targetOffset + targetLength))).toBe(0);
  }
  // 60 KiB of the target are new.
  expect(recipe.length + patches.length + read.restFrameBytes).toBeLessThan(80 * KIB);
});

it('makes no patch for a window whose patch would not be smaller than its frames', async () => {
  const base = imageOf(randomBytes(200 * KIB));
  const target = imageOf(randomBytes(200 * KIB));
  const [window, ...others] = await allOf(makeDelta({ niceness: 0, base, target, frameBytes: () => 1000 }));
  expect(others).toEqual([]);
  expect(window).toMatchObject({
    patch: undefined,
    unmade: 'notSmaller',
    frameBytes: target.index.count * 1000,
  });
});

it('makes no windows where the base holds all chunks', async () => {
  const { bytes } = imageOf(randomBytes(MIB));
  expect(
    await allOf(
      makeDelta({ niceness: 0, base: imageOf(bytes), target: imageOf(bytes), frameBytes: () => 1 }),
    ),
  ).toEqual([]);
});

it('does not make again what an interrupted run has made', async () => {
  const { base, target } = images();
  const request = {
    base,
    target,
    frameBytes: frameBytesOf(target),
    niceness: 0,
    sizes: { maxTargetBytes: 400 * KIB, maxBaseBytes: 2 * MIB, maxGapBytes: 0 },
  };
  const all = await allOf(makeDelta(request));
  expect(all.length).toBeGreaterThan(2);
  const before: MadeWindow[] = [];
  for await (const window of makeDelta(request)) {
    before.push(window);
    if (before.length === 2) break;
  }
  const isMade = ({ firstChunk }: { firstChunk: number }): boolean =>
    before.some(window => window.firstChunk === firstChunk);
  expect([...before, ...(await allOf(makeDelta({ ...request, isMade })))]).toEqual(all);
});

it('gives up a window that takes too long, and makes the next ones', async () => {
  const { base, target } = images();
  const frameBytes = frameBytesOf(target);
  const late = await allOf(makeDelta({ niceness: 0, base, target, frameBytes, patchDeadlineMs: 0 }));
  expect(late.map(({ unmade }) => unmade)).toEqual(late.map(() => 'deadline'));
  expect(late.length).toBeGreaterThan(0);
});

it('ends its process when it is told to stop', async () => {
  const { base, target } = images();
  const stop = new AbortController();
  const read: ImageSource['read'] = async (offset, lengthBytes) => {
    stop.abort(new Error('the origin stops'));
    return base.read(offset, lengthBytes);
  };
  const request = { niceness: 0, base: { ...base, read }, target, frameBytes: () => 1, signal: stop.signal };
  await expect(allOf(makeDelta(request))).rejects.toThrow('the origin stops');
});

it('starts another process when one is killed', async () => {
  const { base, target } = images();
  let isKilled = false;
  const frameBytes = async (): Promise<number> => {
    if (!isKilled) for (const pid of await makerProcesses()) process.kill(pid, 'SIGKILL');
    isKilled = true;
    return 100 * KIB;
  };
  const sizes = { maxTargetBytes: 400 * KIB, maxBaseBytes: 2 * MIB, maxGapBytes: 0 };
  const [first, ...others] = await allOf(makeDelta({ base, target, frameBytes, sizes, niceness: 0 }));
  expect(first).toMatchObject({ unmade: 'failed', failure: expect.stringContaining('SIGKILL') });
  expect(others.length).toBeGreaterThan(0);
  expect(others.every(({ unmade }) => unmade !== 'failed')).toBe(true);
});

it("reads a publisher's bytes only in the maker process, and fails where that process ends", async () => {
  const { base, target } = images();
  // The beginning of a zstd squashfs 4.0. The process asks for more of it.
  const superblock = Buffer.alloc(96);
  superblock.writeUInt32LE(0x73717368);
  superblock.writeUInt32LE(2 ** 17, 12);
  superblock.writeUInt16LE(6, 20);
  superblock.writeUInt16LE(4, 28);
  const hostile = imageOf(Buffer.concat([superblock, base.bytes]));
  let reads = 0;
  const read: ImageSource['read'] = async (offset, lengthBytes) => {
    reads += 1;
    for (const pid of await makerProcesses()) process.kill(pid, 'SIGKILL');
    return hostile.read(offset, lengthBytes);
  };
  const request = { base: { ...hostile, read }, target, frameBytes: frameBytesOf(target), niceness: 0 };
  await expect(allOf(makeDelta(request))).rejects.toMatchObject({ code: 'SITECAST_WORKER_FAILED' });
  expect(reads).toBe(1);
});

it('works at the lowest priority unless told otherwise', async () => {
  const base = imageOf(randomBytes(40 * KIB));
  const target = imageOf(randomBytes(10 * KIB));
  let windows = 0;
  for await (const _ of makeDelta({ base, target, frameBytes: frameBytesOf(target) })) {
    windows += 1;
    const [pid = 0] = await makerProcesses();
    // In `stat`, the nice value is the 17th field after the name, which is in brackets.
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    expect(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]).toBe('19');
  }
  expect(windows).toBeGreaterThan(0);
});

it('makes the largest window in bounded memory', async () => {
  const base = imageOf(randomBytes(9 * MIB));
  const edited = Buffer.from(base.bytes.subarray(0, 4 * MIB));
  for (let at = 0; at < edited.length; at += 4096) edited.writeUInt32LE(at, at);
  const target = imageOf(edited);
  const windows: MadeWindow[] = [];
  const request = { base, target, frameBytes: frameBytesOf(target), niceness: 0 };
  for await (const window of makeDelta(request)) {
    windows.push(window);
    const [pid = 0] = await makerProcesses();
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
    expect(Number(peak)).toBeLessThan(450 * 1024);
  }
  expect(windows.some(({ patch, targetLength }) => patch && targetLength > 3 * MIB)).toBe(true);
});

it('ends its process when that takes more memory than allowed', async () => {
  const { base, target } = images();
  const request = { base, target, frameBytes: frameBytesOf(target), niceness: 0, maxResidentBytes: MIB };
  // It is ended at once here. If it is ended during a window, only that window is lost, as when it is killed.
  await expect(allOf(makeDelta(request))).rejects.toMatchObject({
    code: 'SITECAST_WORKER_FAILED',
    message: expect.stringContaining('bytes of memory'),
  });
});

/** Ids of the processes that make deltas, started by this one. */
async function makerProcesses(): Promise<number[]> {
  const threads = await readdir('/proc/self/task');
  const lists = await Promise.all(
    threads.map(thread => readFile(`/proc/self/task/${thread}/children`, 'utf8')),
  );
  const isMaker = async (pid: number): Promise<boolean> =>
    (await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes('maker-process');
  const pids = lists.join(' ').split(' ').filter(Boolean).map(Number);
  const areMakers = await Promise.all(pids.map(isMaker));
  return pids.filter((_, at) => areMakers[at]);
}
