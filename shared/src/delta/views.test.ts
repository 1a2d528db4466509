import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { applyPatch } from './apply.ts';
import { deflateParameter, pieceCodec } from './encoders/index.ts';
import { sampleBytes } from './encoders/sample-bytes.ts';
import {
  MAX_OPENED_BASE_BYTES,
  MAX_OPENED_TARGET_BYTES,
  MAX_PIECE_BYTES,
  MAX_VIEW_PIECES,
} from './limits.ts';
import { encodePatch } from './patch.ts';
import { codeOf, encodedPiece } from './testing/fixtures.ts';
import { type BaseLayer, closeTarget, openBase, readViews, type Views, writeViews } from './views.ts';

const ZSTD = 'zstd-1.5.5-wasm';
const LZ4 = 'lz4hc-1.9.4';
const XZ = 'liblzma-5.4-ported';
const RAW = Buffer.from('between');
const PLAIN = sampleBytes(60_000, 11);
const halves = [PLAIN.subarray(0, 40_000), PLAIN.subarray(40_000)] as const;

/** An image with two compressed pieces, bytes between them, and bytes at the end. */
function image(codec: string, parameter: number) {
  const pieces = halves.map(half => encodedPiece(pieceCodec(codec), half, parameter));
  const [first, second] = pieces;
  if (first === undefined || second === undefined) throw new Error('two pieces');
  return {
    closed: Buffer.concat([RAW, first, RAW, second, RAW]),
    opened: Buffer.concat([RAW, halves[0], RAW, halves[1], RAW]),
    layer: {
      codec,
      pieces: [first, second].map((piece, at) => ({
        rawBefore: RAW.length,
        compressedLength: piece.length,
        plainLength: halves[at]?.length ?? 0,
      })),
    } satisfies BaseLayer,
  };
}

it.each([
  [ZSTD, 15],
  ['pako-2.2.0', deflateParameter(9, 15, 0)],
  [LZ4, 9],
  [XZ, 10],
])('opens the pieces of %s, and closes them to the very same bytes', (codec, parameter) => {
  const { closed, opened, layer } = image(codec, parameter);
  expect(Buffer.from(openBase(closed, [layer])).equals(opened)).toBe(true);
  const target = [{ codec, parameter, headBytes: 0, pieces: layer.pieces }];
  expect(Buffer.from(closeTarget(opened, target, closed.length)).equals(closed)).toBe(true);
});

it('cuts off the part of a piece that lies outside of the window', () => {
  const { closed, opened, layer } = image(ZSTD, 15);
  const target = [{ codec: ZSTD, parameter: 15, headBytes: 100, pieces: layer.pieces }];
  expect(
    Buffer.from(closeTarget(opened, target, closed.length - 300)).equals(closed.subarray(100, -200)),
  ).toBe(true);
});

it('opens and closes pieces within pieces: a kernel in a squashfs', () => {
  const inner = image(LZ4, 9);
  const cut = 5000;
  const blocks = [inner.closed.subarray(0, cut), inner.closed.subarray(cut)];
  const pieces = blocks.map(block => encodedPiece(pieceCodec(ZSTD), block, 15));
  const outer = {
    codec: ZSTD,
    pieces: pieces.map((piece, at) => ({
      rawBefore: 0,
      compressedLength: piece.length,
      plainLength: blocks[at]?.length ?? 0,
    })),
  };
  const closed = Buffer.concat(pieces);
  expect(Buffer.from(openBase(closed, [outer, inner.layer])).equals(inner.opened)).toBe(true);
  const layers = [
    { codec: ZSTD, parameter: 15, headBytes: 0, pieces: outer.pieces },
    { codec: LZ4, parameter: 9, headBytes: 0, pieces: inner.layer.pieces },
  ];
  expect(Buffer.from(closeTarget(inner.opened, layers, closed.length)).equals(closed)).toBe(true);
});

it('works as part of a patch: the opened base is patched, the target closed', async () => {
  const { closed, opened, layer } = image(ZSTD, 15);
  const changed = Buffer.from(opened);
  changed[30_000] = 1 + (opened[30_000] ?? 0);
  const piece = encodedPiece(pieceCodec(ZSTD), changed.subarray(RAW.length, RAW.length + 40_000), 15);
  const target = Buffer.concat([
    RAW,
    piece,
    closed.subarray(RAW.length + (layer.pieces[0]?.compressedLength ?? 0)),
  ]);
  const diff = new Uint8Array(opened.length);
  diff[30_000] = 1;
  const views: Views = {
    base: [layer],
    target: [{ codec: ZSTD, parameter: 15, headBytes: 0, pieces: layer.pieces }],
  };
  const streams = { control: Int32Array.of(opened.length, 0, 0), diff, extra: new Uint8Array() };
  const patch = await encodePatch(streams, [], writeViews(views));
  const targetLength = target.length;
  expect(Buffer.from(applyPatch({ patch, base: closed, targetLength })).equals(target)).toBe(true);
  const into = new Uint8Array(targetLength);
  expect(applyPatch({ patch, base: closed, targetLength, into })).toBe(into);
  expect(codeOf(() => applyPatch({ patch, base: closed, targetLength: targetLength + 1 }))).toBe(
    'SITECAST_PATCH_RANGE',
  );
  const altered = Buffer.from(closed);
  altered.fill(0xff, RAW.length, RAW.length + 20);
  expect(codeOf(() => applyPatch({ patch, base: altered, targetLength }))).toBe('SITECAST_PATCH_PIECE');
});

it('closes pieces of one layer each with its own parameter, where pieces show it', () => {
  const { layer } = image(XZ, 10);
  const parameters = [10, 2 + 32 * 4];
  const pieces = halves.map((half, at) => encodedPiece(pieceCodec(XZ), half, parameters[at] ?? 0));
  const closed = Buffer.concat([RAW, ...pieces.flatMap(piece => [piece, RAW])]);
  expect(pieces.map(piece => pieceCodec(XZ).parameterOf?.(piece))).toEqual(parameters);
  const own = layer.pieces.map((piece, at) => ({ ...piece, parameter: parameters[at] ?? 0 }));
  const views: Views = { base: [], target: [{ codec: XZ, parameter: 10, headBytes: 0, pieces: own }] };
  const { target } = readViews(writeViews(views));
  expect(target[0]?.pieces.map(({ parameter }) => parameter)).toEqual([undefined, 2 + 32 * 4]);
  const opened = Buffer.concat([RAW, halves[0], RAW, halves[1], RAW]);
  expect(Buffer.from(closeTarget(opened, target, closed.length)).equals(closed)).toBe(true);
});

it('writes views that are read as they were', () => {
  const { layer } = image(ZSTD, 15);
  const views: Views = {
    base: [
      layer,
      { codec: LZ4, pieces: [{ rawBefore: 3, compressedLength: 4, plainLength: MAX_PIECE_BYTES }] },
    ],
    target: [{ codec: ZSTD, parameter: 22, headBytes: 77, pieces: [{ rawBefore: 0, plainLength: 131_072 }] }],
  };
  expect(readViews(writeViews(views))).toEqual({
    base: views.base,
    target: views.target,
  });
});

const read = (views: Views) => codeOf(() => readViews(writeViews(views)));
const piece = (plainLength: number, rawBefore = 0) => ({ rawBefore, plainLength, compressedLength: 1 });
const baseOf = (...pieces: ReturnType<typeof piece>[]): Views => ({
  base: [{ codec: LZ4, pieces }],
  target: [],
});
const targetOf = (parameter: number, ...pieces: ReturnType<typeof piece>[]): Views => ({
  base: [],
  target: [{ codec: LZ4, parameter, headBytes: 0, pieces }],
});

it('refuses views beyond their bounds', () => {
  const rest = MAX_OPENED_BASE_BYTES - MAX_PIECE_BYTES;
  expect(read(baseOf(piece(MAX_PIECE_BYTES), piece(rest)))).toBe('done');
  expect(read(baseOf(piece(MAX_PIECE_BYTES), piece(rest + 1)))).toBe('SITECAST_PATCH_INVALID');
  expect(read(baseOf(piece(MAX_PIECE_BYTES + 1)))).toBe('SITECAST_PATCH_INVALID');
  // A block of a squashfs has at most 1 MiB.
  const zstd = (plainLength: number): Views => ({
    base: [{ codec: ZSTD, pieces: [piece(plainLength)] }],
    target: [],
  });
  expect(read(zstd(2 ** 20))).toBe('done');
  expect(read(zstd(2 ** 20 + 1))).toBe('SITECAST_PATCH_INVALID');
  const half = MAX_PIECE_BYTES;
  expect(read(targetOf(9, piece(half, MAX_OPENED_TARGET_BYTES - half)))).toBe('done');
  expect(read(targetOf(9, piece(half, MAX_OPENED_TARGET_BYTES - half + 1)))).toBe('SITECAST_PATCH_INVALID');
  expect(read(targetOf(12, piece(1)))).toBe('SITECAST_PATCH_INVALID');
  const xzOf = (parameter: number): Views => ({
    base: [],
    target: [{ codec: XZ, parameter: 10, headBytes: 0, pieces: [{ ...piece(1), parameter }] }],
  });
  expect(read(xzOf(16))).toBe('done');
  expect(read(xzOf(17))).toBe('SITECAST_PATCH_INVALID');
  expect(read(baseOf(...Array.from({ length: MAX_VIEW_PIECES }, () => piece(1))))).toBe('done');
  expect(read(baseOf(...Array.from({ length: MAX_VIEW_PIECES + 1 }, () => piece(1))))).toBe(
    'SITECAST_PATCH_INVALID',
  );
  expect(codeOf(() => readViews(Uint8Array.of(1, 99)))).toBe('SITECAST_PATCH_VIEWS');
  expect(codeOf(() => readViews(Uint8Array.of(3)))).toBe('SITECAST_PATCH_INVALID');
  expect(
    codeOf(() =>
      openBase(new Uint8Array(10), [{ codec: LZ4, pieces: [{ ...piece(1), compressedLength: 11 }] }]),
    ),
  ).toBe('SITECAST_PATCH_RANGE');
  const long: BaseLayer = {
    codec: LZ4,
    pieces: [{ rawBefore: 0, compressedLength: 1, plainLength: MAX_OPENED_BASE_BYTES }],
  };
  expect(codeOf(() => openBase(new Uint8Array(10), [long]))).toBe('SITECAST_PATCH_RANGE');
});

it('survives altered views', () => {
  const { closed, opened, layer } = image(ZSTD, 3);
  const bytes = writeViews({
    base: [layer],
    target: [{ codec: ZSTD, parameter: 3, headBytes: 5, pieces: layer.pieces }],
  });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 }),
      changes => {
        const altered = Buffer.from(bytes);
        for (const [at, value] of changes) altered[at] = value;
        const code = codeOf(() => {
          const views = readViews(altered);
          expect(openBase(closed, views.base).length).toBeLessThanOrEqual(MAX_OPENED_BASE_BYTES);
          expect(closeTarget(opened, views.target, 1000).length).toBe(1000);
        });
        expect(code).toMatch(/^(done|SITECAST_PATCH_[A-Z]+)$/);
      },
    ),
    { numRuns: 300 },
  );
});
