import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ChunkCutter, ChunkIndexBuilder, chunkIdOf, DEFAULT_CHUNK_SIZES } from '@sitecast/shared/content';
import { applyPatch, decodeRecipe, encodersIn, pieceCodec, windowsOf } from '@sitecast/shared/delta';
import { encodedPiece } from '@sitecast/shared/delta/testing';
import { isSystemError } from '@sitecast/shared/errors';
import { afterAll, expect, it } from 'vitest';
import { composeDelta, composedWindow } from './compose-delta.ts';
import type { ImageSource } from '../maker-port.ts';
import { makeDelta } from './make-delta.ts';
import { LZ4_LEGACY_MAGIC } from './opening/scan.ts';

const KIB = 1024;
const folder = mkdtempSync(join(tmpdir(), 'sitecast-opened-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Image extends ImageSource {
  readonly bytes: Buffer;
}

function imageOf(bytes: Buffer): Image {
  const cutter = new ChunkCutter(DEFAULT_CHUNK_SIZES);
  const builder = new ChunkIndexBuilder(DEFAULT_CHUNK_SIZES);
  for (let at = 0; at < bytes.length; ) {
    const next = cutter.next(bytes, at, bytes.length);
    const end = next === -1 ? bytes.length : next;
    builder.add(chunkIdOf(bytes.subarray(at, end)), end);
    at = end;
  }
  return {
    bytes,
    index: builder.finish(),
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  };
}

/** Bytes that compress to about half, with `changes` changed bytes spread over them. */
function content(lengthBytes: number, changes: number): Buffer {
  const out = Buffer.alloc(lengthBytes);
  let state = 1;
  for (let at = 0; at < lengthBytes; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    out[at] = 97 + ((state >>> 16) % 16);
  }
  for (let change = 0; change < changes; change++) out[Math.floor((lengthBytes / changes) * change)] = 10;
  return out;
}

function squashfs(context: { skip(note: string): void }, name: string, files: Record<string, Buffer>): Image {
  const tree = join(folder, name);
  mkdirSync(tree);
  for (const [file, bytes] of Object.entries(files)) writeFileSync(join(tree, file), bytes);
  const image = `${tree}.squashfs`;
  try {
    execFileSync('mksquashfs', [
      tree,
      image,
      '-comp',
      'zstd',
      '-Xcompression-level',
      '3',
      '-quiet',
      '-no-progress',
    ]);
  } catch (error) {
    if (!isSystemError(error, 'ENOENT')) throw error;
    if (process.env.CI) throw new Error('mksquashfs is not installed, and CI needs it', { cause: error });
    context.skip('mksquashfs is not installed');
  }
  return imageOf(readFileSync(image));
}

function kernel(plain: Buffer): Buffer {
  const block = encodedPiece(pieceCodec('lz4hc-1.9.4'), plain, 9);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(block.length);
  return Buffer.concat([content(3000, 0), LZ4_LEGACY_MAGIC, length, block, Buffer.alloc(4)]);
}

/** Makes the delta, applies all patches, and compares. @returns the delta's bytes, and the encoders that its recipe names */
async function deltaOf(base: Image, target: Image, encoders?: string[]) {
  const frameBytes = (chunk: number) => target.index.lengthOf(chunk) + 20;
  const windows = [];
  let fetchedBytes = 0;
  for await (const { patch, ...window } of makeDelta({
    base,
    target,
    frameBytes,
    // Not the lowest priority: with other tests running, it would hardly get any CPU time.
    niceness: 0,
    ...(encoders && { encoders }),
  })) {
    if (patch === undefined) fetchedBytes += window.frameBytes;
    else windows.push({ ...window, patch });
  }
  for (const { patch, baseOffset, baseLength, targetOffset, targetLength } of windows) {
    const range = base.bytes.subarray(baseOffset, baseOffset + baseLength);
    const made = applyPatch({ patch, base: range, targetLength });
    expect(Buffer.compare(made, target.bytes.subarray(targetOffset, targetOffset + targetLength))).toBe(0);
  }
  const release = (counter: number) => ({ counter, indexSha256: '0'.repeat(64) });
  const head = { product: 'camera', from: release(1), to: release(2) };
  const indexes = { base: base.index, target: target.index };
  const { recipe } = await composeDelta(head, indexes, windows.map(composedWindow), frameBytes);
  const read = decodeRecipe(recipe);
  for (const [at, window] of windowsOf(read, base.index, target.index).entries()) {
    const named = read.encoders.filter((_, encoder) => (window.encoderBits >> encoder) % 2 === 1);
    expect(named).toEqual(encodersIn(windows[at]?.patch ?? new Uint8Array()).sort());
  }
  return {
    bytes: windows.reduce((sum, { patch }) => sum + patch.length, fetchedBytes),
    encoders: read.encoders,
  };
}

it('opens squashfs images and kernels in them, which makes patches more than 20 times smaller', async context => {
  const files = (changes: number) => ({
    program: content(400 * KIB, changes),
    vmlinuz: kernel(content(280 * KIB, changes)),
  });
  const base = squashfs(context, 'old', files(0));
  const target = squashfs(context, 'new', files(40));
  const opened = await deltaOf(base, target);
  expect(opened.encoders).toEqual(['lz4hc-1.9.4', 'zstd-1.5.5-wasm']);
  const closed = await deltaOf(base, target, []);
  expect(closed.encoders).toEqual([]);
  expect(opened.bytes).toBeLessThan(closed.bytes / 20);
  const withoutKernel = await deltaOf(base, target, ['zstd-1.5.5-wasm']);
  expect(withoutKernel.encoders).toEqual(['zstd-1.5.5-wasm']);
  expect(withoutKernel.bytes).toBeLessThan(closed.bytes);
});
