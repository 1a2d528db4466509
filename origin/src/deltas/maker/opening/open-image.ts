import { MAX_PIECE_BYTES, PIECE_CODECS } from '@sitecast/shared/delta';
import type { ByteSource } from './byte-source.ts';
import { type ImageRange, MAX_LOOKED_AT_BYTES, OpenedImage, type OpenedLayer } from './opened-image.ts';
import { MAX_PIECES, type Piece, PieceMap } from './piece-map.ts';
import { LZ4_LEGACY_BLOCK_BYTES, type ScanResult, type ScanTask } from './scan.ts';
import { liesInside, type SquashfsLayer } from './squashfs-layer.ts';

/** The parts of opening an image that run in the maker's process: those that parse a publisher's bytes, and those that take long. */
export interface Prober {
  /** See `readLayer`. */
  pieces(source: ByteSource): Promise<SquashfsLayer | undefined>;
  scan(task: ScanTask): Promise<ScanResult>;
  /** Opens a range, and looks for an LZ4 block after the length field at `at` in the result. */
  probe(
    range: ImageRange,
    bytes: Uint8Array,
    at: number,
  ): Promise<{ length: number; plainLength: number } | undefined>;
}

const LZ4 = 'lz4hc-1.9.4';
const PART_BYTES = 4 * 1024 * 1024;
/** How many kernels of an image, and blocks of a kernel, are looked at. */
const MAX_KERNELS = 16;
const MAX_KERNEL_BLOCKS = 64;

/**
 * Finds the compressed pieces of an image: of a squashfs, and of kernels in it or in any other image. A malformed image isn't opened.
 * @param codecs names of those that may be used
 */
export async function openImage(
  source: ByteSource,
  prober: Prober,
  codecs: readonly string[] = PIECE_CODECS.map(({ name }) => name),
): Promise<OpenedImage> {
  const found = await prober.pieces(source);
  const isUsable =
    found &&
    codecs.includes(found.codec) &&
    found.offsets.length <= MAX_PIECES &&
    liesInside(found, source.sizeBytes);
  const squashfs = isUsable ? found : undefined;
  const { pieces, magics } = await scanAll(source, squashfs, prober);
  const outer: OpenedLayer = {
    codec: squashfs?.codec ?? 'zstd-1.5.5-wasm',
    parameter: squashfs?.parameter ?? 1,
    pieces: new PieceMap(pieces),
  };
  const withoutKernels = new OpenedImage(source.sizeBytes, [outer]);
  const blocks = codecs.includes(LZ4) ? await findBlocks(source, withoutKernels, magics, prober) : [];
  return new OpenedImage(source.sizeBytes, [
    outer,
    { codec: LZ4, parameter: 9, pieces: new PieceMap(blocks) },
  ]);
}

/** Opens each piece once: for the plain lengths of pieces, and for places in the opened image where kernels may begin. */
async function scanAll(
  source: ByteSource,
  squashfs: SquashfsLayer | undefined,
  prober: Prober,
): Promise<{ pieces: Piece[]; magics: number[] }> {
  const pieces: Piece[] = [];
  const magics: number[] = [];
  let growth = 0;
  for (let offset = 0, first = 0; offset < source.sizeBytes; ) {
    const { end, last } = partEnd(squashfs, first, offset, source.sizeBytes);
    const inPart = Array.from({ length: last - first }, (_, at) => pieceAt(squashfs, first + at)).filter(
      piece => piece !== undefined,
    );
    const from = offset;
    const { plainLengths, magics: found } = await prober.scan({
      codec: squashfs?.codec ?? '',
      bytes: await source.read(offset, end - offset),
      pieces: inPart.map(piece => ({ ...piece, offset: piece.offset - from })),
    });
    for (const magic of found) magics.push(offset + growth + magic);
    inPart.forEach(({ offset, length }, at) => {
      const plainLength = plainLengths[at] ?? 0;
      if (plainLength === 0) return;
      pieces.push({ offset, length, plainLength });
      growth += plainLength - length;
    });
    first = last;
    offset = end;
  }
  return { pieces, magics };
}

/** The piece with this number. `plainLength` is the longest possible one. */
function pieceAt(layer: SquashfsLayer | undefined, at: number): Piece | undefined {
  const [offset, length, plainLength] = [layer?.offsets[at], layer?.lengths[at], layer?.maxPlainLengths[at]];
  if (offset === undefined || length === undefined || plainLength === undefined) return undefined;
  return { offset, length, plainLength };
}

/** Where a part that begins at `offset` ends: after a whole piece, and before its opened length exceeds the bound. */
function partEnd(
  layer: SquashfsLayer | undefined,
  first: number,
  offset: number,
  sizeBytes: number,
): { end: number; last: number } {
  let end = Math.min(offset + PART_BYTES, sizeBytes);
  let last = first;
  let opened = PART_BYTES;
  for (let piece = pieceAt(layer, last); piece && piece.offset < end; piece = pieceAt(layer, ++last)) {
    opened += piece.plainLength;
    if (opened > MAX_LOOKED_AT_BYTES) return { end: piece.offset, last };
    end = Math.max(end, piece.offset + piece.length);
  }
  return { end, last };
}

/** The blocks of kernels that lie in one piece of the opened image. */
async function findBlocks(
  source: ByteSource,
  image: OpenedImage,
  magics: readonly number[],
  prober: Prober,
): Promise<Piece[]> {
  const blocks: Piece[] = [];
  let end = 0;
  for (const magic of magics.slice(0, MAX_KERNELS)) {
    if (magic < end) continue;
    for (let at = magic + 4, count = 0; count < MAX_KERNEL_BLOCKS; count++) {
      const block = await probeAt(source, image, at, prober);
      if (block === undefined) break;
      blocks.push({ offset: at + 4, ...block });
      at += 4 + block.length;
      end = at;
      if (block.plainLength < LZ4_LEGACY_BLOCK_BYTES) break;
    }
  }
  return blocks;
}

/** The longest compressed LZ4 block. */
const MAX_BLOCK_BYTES = MAX_PIECE_BYTES;

/** The most bytes of the image that are read for one block. */
const MAX_PROBED_BYTES = 2 * MAX_BLOCK_BYTES;

async function probeAt(source: ByteSource, image: OpenedImage, at: number, prober: Prober) {
  const range = image.rangeAround(at, Math.min(at + 4 + MAX_BLOCK_BYTES, image.openedBytes));
  // Long pieces with short content: no encoder makes these.
  if (range.length > MAX_PROBED_BYTES) return undefined;
  const bytes = await source.read(range.offset, range.length);
  return prober.probe(range, bytes, at - image.toOpened(range.offset));
}

/** Opens base and target to the same depth: content that is opened on one side only can't be matched. */
export function openedAlike(
  base: OpenedImage,
  target: OpenedImage,
): [base: OpenedImage, target: OpenedImage] {
  let depth = 0;
  while (hasPieces(base, depth) === hasPieces(target, depth) && depth < target.layers.length) depth++;
  return [
    new OpenedImage(base.sizeBytes, base.layers.slice(0, depth)),
    new OpenedImage(target.sizeBytes, target.layers.slice(0, depth)),
  ];
}

function hasPieces({ layers }: OpenedImage, depth: number): string | undefined {
  const layer = layers[depth];
  return layer === undefined || layer.pieces.count === 0 ? undefined : layer.codec;
}
