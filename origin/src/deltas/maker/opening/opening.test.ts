import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeTarget, openBase, pieceCodec } from '@sitecast/shared/delta';
import { encodedPiece } from '@sitecast/shared/delta/testing';
import { isSystemError } from '@sitecast/shared/errors';
import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { ByteSource } from './byte-source.ts';
import { openImage, type Prober } from './open-image.ts';
import { baseLayers, type OpenedImage } from './opened-image.ts';
import { LZ4_LEGACY_MAGIC, probeBlock, scanPart } from './scan.ts';
import { readSquashfs } from './squashfs.ts';
import { readLayer } from './squashfs-layer.ts';
import { openAll, openBaseFor, openTarget } from './window-views.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const folder = mkdtempSync(join(tmpdir(), 'sitecast-opening-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const prober: Prober = {
  pieces: readLayer,
  scan: task => Promise.resolve(scanPart(task)),
  probe: ({ layers }, bytes, at) => Promise.resolve(probeBlock(openAll({ bytes, layers }), at)),
};

function sourceOf(bytes: Uint8Array): ByteSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  };
}

/** Text-like bytes that compress to about a third. The same seed gives the same bytes. */
function content(lengthBytes: number, seed: number): Buffer {
  const out = Buffer.alloc(lengthBytes);
  let state = seed;
  for (let at = 0; at < lengthBytes; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    out[at] = (state >>> 16) % 7 === 0 && at > 200 ? (out[at - 200] ?? 0) : 97 + ((state >>> 20) % 9);
  }
  return out;
}

/** A squashfs of a small tree, or undefined where mksquashfs isn't installed. */
function squashfs(
  context: { skip(note: string): void },
  name: string,
  kernel: Uint8Array,
  ...options: string[]
): Buffer {
  const tree = join(folder, `${name}-tree`);
  const image = join(folder, `${name}.squashfs`);
  mkdirSync(join(tree, 'etc'), { recursive: true });
  // Our port of liblzma is slow in the test runner, which replaces each use of an import by a getter.
  const large = options.includes('xz') ? 140 * KIB : 700 * KIB;
  const files = options.includes('xz') ? 30 : 150;
  writeFileSync(join(tree, 'large'), content(large, 1));
  writeFileSync(join(tree, 'the same as large'), content(large, 1));
  writeFileSync(join(tree, 'holes'), Buffer.concat([Buffer.alloc(300 * KIB), content(1000, 2)]));
  writeFileSync(join(tree, 'vmlinuz'), kernel);
  for (let file = 0; file < files; file++)
    writeFileSync(join(tree, 'etc', `file ${file}`), content(100 + file * 19, file));
  try {
    symlinkSync('large', join(tree, 'link'));
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error;
  }
  try {
    execFileSync('mksquashfs', [
      tree,
      image,
      '-noappend',
      '-no-progress',
      '-quiet',
      '-processors',
      '1',
      ...options,
    ]);
  } catch (error) {
    if (!isSystemError(error, 'ENOENT')) throw error;
    if (process.env.CI) throw new Error('mksquashfs is not installed, and CI needs it', { cause: error });
    context.skip('mksquashfs is not installed');
  }
  return readFileSync(image);
}

/** Opens a target window and closes it again, from the bytes that a device would get. */
async function openedAndClosed(image: OpenedImage, source: ByteSource, from: number, to: number) {
  const range = image.targetRange(from, to);
  const bytes = await source.read(range.offset, range.length);
  const target = openTarget(
    { bytes, layers: range.layers },
    { from: from - range.offset, to: to - range.offset },
  );
  return { target, closed: closeTarget(target.plain, target.layers, to - from) };
}

const FORMATS: [name: string, ...options: string[]][] = [
  ['zstd', '-comp', 'zstd'],
  ['zstd, level 9, small blocks', '-comp', 'zstd', '-Xcompression-level', '9', '-b', '16384'],
  ['gzip', '-comp', 'gzip'],
  ['gzip, level 5, large blocks', '-comp', 'gzip', '-Xcompression-level', '5', '-b', '1048576'],
  ['zstd, no fragments, not exportable', '-comp', 'zstd', '-no-fragments', '-no-exports'],
  ['zstd, stored inodes', '-comp', 'zstd', '-noI', '-noF'],
  ['xz', '-comp', 'xz'],
  [
    'xz, filters and a small dictionary',
    '-comp',
    'xz',
    '-Xbcj',
    'x86,arm',
    '-Xdict-size',
    '25%',
    '-b',
    '65536',
  ],
];

describe.each(FORMATS)('a squashfs: %s', (name, ...options) => {
  it('is opened, and each piece is closed to the same bytes', async context => {
    const bytes = squashfs(context, name, content(1000, 3), ...options);
    const source = sourceOf(bytes);
    const image = await openImage(source, prober);
    const [outer] = image.layers;
    expect(outer?.pieces.count).toBeGreaterThan(2);
    expect(image.openedBytes).toBeGreaterThan(1.2 * bytes.length);
    const { target, closed } = await openedAndClosed(image, source, 0, bytes.length);
    expect(target.inexact).toEqual([]);
    expect(target.layers[0]?.pieces.length).toBe(outer?.pieces.count);
    expect(Buffer.compare(closed, bytes)).toBe(0);
    // Windows that cut pieces.
    for (const [from, to] of [
      [1, 200],
      [5000, 20_000],
      [40_001, 40_002],
      [bytes.length - 7000, bytes.length],
    ] as const) {
      const window = await openedAndClosed(image, source, from, to);
      expect(Buffer.compare(window.closed, bytes.subarray(from, to))).toBe(0);
    }
  });
});

it.for(['lzo', 'lz4'])('leaves a squashfs with %s closed', async (codec, context) => {
  const bytes = squashfs(context, codec, content(1000, 3), '-comp', codec);
  const image = await openImage(sourceOf(bytes), prober);
  expect(image.openedBytes).toBe(bytes.length);
});

/** The payload of a bzImage: `lz4 -l -9`. */
function kernelPayload(plain: Uint8Array): Buffer {
  const parts: Uint8Array[] = [LZ4_LEGACY_MAGIC];
  for (let at = 0; at < plain.length; at += 8 * MIB) {
    const block = encodedPiece(pieceCodec('lz4hc-1.9.4'), plain.subarray(at, at + 8 * MIB), 9);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(block.length);
    parts.push(length, block);
  }
  return Buffer.concat([...parts, Buffer.of(1, 2, 3, 4)]);
}

it('opens the blocks of a kernel, in a squashfs and in any other image', async context => {
  const plain = Buffer.alloc(9 * MIB);
  for (let at = 0; at < plain.length; at += 300 * KIB) content(200 * KIB, at).copy(plain, at);
  const kernel = Buffer.concat([content(20_000, 5), kernelPayload(plain)]);
  const raw = Buffer.concat([content(50_000, 6), kernel, content(30_000, 7)]);
  for (const bytes of [raw, squashfs(context, 'kernel', kernel, '-comp', 'zstd')]) {
    const source = sourceOf(bytes);
    const image = await openImage(source, prober);
    expect(image.layers[1]?.pieces.count).toBe(2);
    const middle = Math.floor(bytes.length / 2);
    for (const [from, to] of [
      [0, middle],
      [0, 200_000],
      [middle, bytes.length],
    ] as const) {
      const { target, closed } = await openedAndClosed(image, source, from, to);
      expect(target.inexact).toEqual([]);
      expect(Buffer.compare(closed, bytes.subarray(from, to))).toBe(0);
    }
    const { target } = await openedAndClosed(image, source, 0, middle);
    expect(target.layers.at(-1)?.codec).toBe('lz4hc-1.9.4');
    const all = Buffer.concat(
      await Promise.all(
        [...image.parts(MIB)].map(async ({ range, from, length }) => {
          const part = openAll({
            bytes: await source.read(range.offset, range.length),
            layers: range.layers,
          });
          return part.subarray(from, from + length);
        }),
      ),
    );
    expect(all.length).toBe(image.openedBytes);
    expect(all.includes(plain.subarray(0, 100_000))).toBe(true);
  }
});

it('leaves pieces closed that their encoder would make differently, also in the base', async context => {
  const bytes = squashfs(context, 'inexact', content(1000, 3), '-comp', 'zstd', '-Xcompression-level', '9');
  const source = sourceOf(bytes);
  const image = await openImage(source, prober);
  const range = image.targetRange(0, bytes.length);
  const wrong = range.layers.map(layer => ({ ...layer, parameter: 10 }));
  const target = openTarget({ bytes, layers: wrong }, { from: 0, to: bytes.length });
  expect(target.inexact.length).toBeGreaterThan(2);
  expect(Buffer.compare(closeTarget(target.plain, target.layers, bytes.length), bytes)).toBe(0);
  const base = openBaseFor({ bytes, layers: range.layers }, target);
  const inexact = target.inexact[0] ?? new Uint8Array();
  expect(Buffer.from(base.plain).includes(Buffer.from(inexact))).toBe(true);
  expect(Buffer.compare(openBase(bytes, base.layers), base.plain)).toBe(0);
  expect(base.layers[0]?.pieces.length).toBeLessThan(baseLayers(range.layers)[0]?.pieces.length ?? 0);
});

it('takes no harm from a squashfs that is altered or cut off anywhere', async context => {
  const bytes = squashfs(context, 'altered', content(1000, 3), '-comp', 'zstd', '-b', '16384');
  const tail = bytes.length - 8000;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.tuple(fc.oneof(fc.nat(95), fc.integer({ min: tail, max: bytes.length - 1 })), fc.nat(255)),
        { maxLength: 4 },
      ),
      fc.option(fc.nat(bytes.length)),
      async (changes, length) => {
        const altered = Buffer.from(bytes.subarray(0, length ?? bytes.length));
        for (const [at, value] of changes) if (at < altered.length) altered[at] = value;
        const source = sourceOf(altered);
        const image = await openImage(source, prober);
        const to = Math.min(altered.length, 60_000);
        if (to < 2) return;
        const { closed } = await openedAndClosed(image, source, 1, to);
        expect(Buffer.compare(closed, altered.subarray(1, to))).toBe(0);
      },
    ),
    { numRuns: 60 },
  );
});

/** A squashfs whose inode table is many stored metadata blocks of one byte. */
function shortBlocks(count: number): Buffer {
  const head = Buffer.alloc(96);
  const end = head.length + 3 * count;
  head.writeUInt32LE(0x73717368, 0);
  head.writeUInt32LE(1, 4);
  head.writeUInt32LE(131_072, 12);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(4, 28);
  const tables = { id: [48, end], inode: [64, head.length], directory: [72, end] } as const;
  for (const at of [48, 56, 64, 72, 80, 88]) head.writeBigUInt64LE(2n ** 64n - 1n, at);
  for (const [at, offset] of Object.values(tables)) head.writeBigUInt64LE(BigInt(offset), at);
  const block = Buffer.of(0x01, 0x80, 0);
  return Buffer.concat([head, Buffer.concat(Array.from({ length: count }, () => block)), Buffer.alloc(4096)]);
}

it('refuses a table of thousands of short blocks', async () => {
  let reads = 0;
  const image = sourceOf(shortBlocks(100_000));
  const source: ByteSource = {
    sizeBytes: image.sizeBytes,
    read: (offset, length) => {
      reads += 1;
      return image.read(offset, length);
    },
  };
  await expect(readSquashfs(source)).rejects.toThrow('short metadata blocks');
  expect(reads).toBeLessThan(100);
});
