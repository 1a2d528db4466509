import { decodeStream } from '../codecs/index.ts';
import { STREAM_CODECS } from '../codecs/stream-codec.ts';
import { ByteReader } from '../bytes.ts';
import { deflateParameter, pieceCodec } from '../encoders/index.ts';
import { sampleBytes } from '../encoders/sample-bytes.ts';
import { encodePatch, type Patch, type PatchStreams, readPatch, type StreamEncoder } from '../patch.ts';
import { type BaseLayer, openBase, type TargetLayer, writeViews } from '../views.ts';
import { changedPieces, encodedPiece, manyBlocks, patchWithDiff } from './fixtures.ts';
import { lie, mutateBytes, mutateTokens, type Random, type Token, write, zigzag } from './mutations.ts';

/** A valid patch, with the base and length that it's applied with. */
export interface PatchCase {
  readonly patch: Uint8Array;
  readonly base: Uint8Array;
  readonly targetLength: number;
}

/** Codecs of pieces with parameters that they take. */
const PIECES = [
  ['zstd-1.5.5-wasm', 3],
  ['pako-2.2.0', deflateParameter(6, 15, 0)],
  ['lz4hc-1.9.4', 9],
  ['liblzma-5.4-ported', 2],
] as const;

const CODES = { truncated: 'SITECAST_PATCH_TRUNCATED', invalid: 'SITECAST_PATCH_INVALID' } as const;

/** Valid patches: stored, coded, and with pieces opened in one layer and in two. */
export async function patchCases(encoders: readonly StreamEncoder[]): Promise<PatchCase[]> {
  const cases: PatchCase[] = [];
  for (const length of [40, 3_000, 20_000]) {
    const { base, streams, target } = changedPieces(length * 2, length);
    for (const some of [[], encoders, encoders.slice(0, 1), encoders.slice(1)])
      cases.push({ patch: await encodePatch(streams, some), base, targetLength: target.length });
  }
  // As many of them as make a third of all patches open pieces.
  for (const [codec, parameter] of PIECES)
    for (const layers of [1, 2]) cases.push(await openedCase(codec, parameter, layers, encoders));
  return cases;
}

/** Two pieces with bytes between them; for two layers, all of that as one more piece. */
async function openedCase(
  name: string,
  parameter: number,
  layers: number,
  encoders: readonly StreamEncoder[],
): Promise<PatchCase> {
  const codec = pieceCodec(name);
  const raw = Buffer.from('between');
  const plain = sampleBytes(3_000, 7);
  const piece = encodedPiece(codec, plain, parameter);
  const inner = Buffer.concat([raw, piece, raw, piece]);
  const outerPiece = encodedPiece(codec, inner, parameter);
  const of = (rawBefore: number, plainLength: number, compressedLength: number) => ({
    rawBefore,
    plainLength,
    compressedLength,
  });
  const outer = [of(raw.length, inner.length, outerPiece.length)];
  const pieces = [
    of(raw.length * layers, plain.length, piece.length),
    of(raw.length, plain.length, piece.length),
  ];
  const base: BaseLayer[] = [outer, pieces].slice(2 - layers).map(some => ({ codec: name, pieces: some }));
  const target = base.map((layer): TargetLayer => ({ ...layer, parameter, headBytes: 0 }));
  const range = layers === 2 ? Buffer.concat([raw, outerPiece]) : inner;
  const patch = await encodePatch(untouched(range, base), encoders, writeViews({ base, target }));
  return { patch, base: range, targetLength: range.length };
}

/** Streams that copy the opened base unchanged. */
function untouched(base: Uint8Array, layers: readonly BaseLayer[]): PatchStreams {
  const { length } = openBase(base, layers);
  return { control: Int32Array.of(length, 0, 0), diff: new Uint8Array(length), extra: new Uint8Array(0) };
}

/** The same patch with wrong values in it. Many are made consistent again, so that checks beyond the first ones are reached. */
export function hostilePatch(random: Random, { patch, base, targetLength }: PatchCase): PatchCase {
  const made = (bytes: Uint8Array) => ({ patch: bytes, base, targetLength });
  const read = readPatch(patch);
  switch (random.below(7)) {
    case 0:
      return made(mutateBytes(random, patch));
    case 1:
      return made(write(mutateTokens(random, tokensOf(read))));
    case 2:
      return made(write(tokensOf(withWrongStream(random, read))));
    case 3:
      return made(write(tokensOf(withWrongViews(random, read))));
    case 4:
      return lyingTriples(random, base, read);
    case 5:
      return { patch, base: altered(random, base), targetLength };
    default:
      return random.oneIn(20)
        ? bomb(random)
        : made(write(tokensOf(withWrongStream(random, withWrongViews(random, read)))));
  }
}

/** The patch as tokens: head, lengths, views, streams. The lengths are those of its views and streams. */
function tokensOf({ targetLength, tripleCount, controlLength, control, diff, extra, views }: Patch): Token[] {
  const coding = [control, diff, extra].reduce(
    (bits, { codec }, at) => bits | (STREAM_CODECS.indexOf(codec) << (at * 2)),
    views === undefined ? 0 : 0x40,
  );
  return [
    Buffer.of(0xdc, 1, coding),
    targetLength,
    tripleCount,
    controlLength,
    control.bytes.length,
    diff.bytes.length,
    ...(views === undefined ? [] : [views.length, views]),
    control.bytes,
    diff.bytes,
    extra.bytes,
  ];
}

function withWrongStream(random: Random, patch: Patch): Patch {
  const name = random.pick(['control', 'diff', 'extra'] as const);
  const { codec, bytes } = patch[name];
  // For another codec, only the length is right.
  const coded = random.oneIn(8)
    ? { codec: random.pick(STREAM_CODECS), bytes }
    : { codec, bytes: mutateBytes(random, bytes) };
  return { ...patch, [name]: coded };
}

/** Other bytes of the same length: a base that was mounted, or is damaged. */
function altered(random: Random, base: Uint8Array): Uint8Array {
  const bytes = Buffer.from(base);
  bytes.set(mutateBytes(random, base).subarray(0, base.length));
  return bytes;
}

/** The views as numbers (most of their bytes are), with one changed. */
function withWrongViews(random: Random, patch: Patch): Patch {
  if (patch.views === undefined) return patch;
  const reader = new ByteReader(patch.views, 'patch', CODES);
  const numbers: number[] = [];
  while (reader.left > 0) numbers.push(reader.uint('a number'));
  return { ...patch, views: write(mutateTokens(random, numbers)) };
}

/** Wrong triples, with streams and a target of just the lengths that they add up to: only the check of ranges can refuse them. */
function lyingTriples(random: Random, base: Uint8Array, patch: Patch): PatchCase {
  const plain = new Uint8Array(patch.controlLength);
  decodeStream(patch.control.codec, patch.control.bytes, plain);
  const reader = new ByteReader(plain, 'patch', CODES);
  const read = () => Array.from({ length: patch.tripleCount }, () => reader.uint('a number'));
  const columns: [number[], number[], number[]] = [read(), read(), read()];
  const column = random.pick(columns);
  const at = random.below(Math.max(1, column.length));
  const old = column[at] ?? 0;
  column[at] = random.oneIn(2) ? zigzag(random.below(base.length * 2) - base.length) : lie(random, old);
  const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);
  const isSmall = sum(columns[0]) + sum(columns[1]) < 2 ** 20;
  const [diff, extra] = isSmall
    ? [Buffer.alloc(sum(columns[0])), Buffer.alloc(sum(columns[1]))]
    : [patch.diff.bytes, patch.extra.bytes];
  const control = write(columns.flat());
  const stored = (bytes: Uint8Array) => ({ codec: 'stored', bytes }) as const;
  const targetLength = isSmall ? diff.length + extra.length : patch.targetLength;
  const lying = {
    targetLength,
    tripleCount: patch.tripleCount,
    controlLength: control.length,
    control: stored(control),
    diff: stored(diff),
    extra: stored(extra),
    views: undefined,
  };
  return { patch: write(tokensOf(lying)), base, targetLength };
}

/** Streams that claim to be long and hold little, and the reverse. */
function bomb(random: Random): PatchCase {
  const blocks = 1 + random.below(2_000);
  const coded = manyBlocks(blocks);
  const targetLength = random.oneIn(2) ? blocks : lie(random, blocks) % 2 ** 20;
  return { patch: patchWithDiff(coded, targetLength), base: Buffer.alloc(targetLength), targetLength };
}
