import lzma from 'lzma-native';
import type { StreamEncoder } from '@sitecast/shared/delta';
import { encodeBzip2 } from './bzip2/encode.ts';

/** `lc=3 lp=0 pb=0`, as differences of bytes have no alignment. `lc=0` would save some hundredths of a percent, in twice the time. */
const LITERAL_CONTEXT_BITS = 3;
/** As long as a window. 8 MiB would save nothing even for opened kernels, and need 50 MiB more memory. */
const DICTIONARY_BYTES = 4 * 1024 * 1024;
const MIN_DICTIONARY_BYTES = 4096;
const THOROUGH = { mode: lzma.MODE_NORMAL, niceLen: 273, mf: lzma.MF_BT4 };
/** Search for dense streams, in which long matches are rare: searching them takes more than half of the time, and saves two hundredths. */
const DENSE = { ...THOROUGH, niceLen: 96 };
/** A stream is dense if its quick LZMA code is longer than this part of it. That is so for recompiled programs, but not for few changes. */
const DENSE_PART = 1 / 50;
const QUICK = { mode: lzma.MODE_FAST, niceLen: 64, mf: lzma.MF_HC4 };
/** If quick LZMA is more than this many times as long as bzip2, thorough LZMA isn't tried: it would save about a third. */
const HOPELESS = 1.5;
/** Of a stream that is more than twice as long, a part of this length is coded first to choose an encoder. */
const TRIED_BYTES = 400_000;
/** If quick LZMA is less than this many times as long as bzip2, thorough LZMA is shorter than bzip2. */
const SURELY_BETTER = 1.1;

/** The encoders for streams of patches. They must be called in this order. */
export const STREAM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: bzip2WhereItPromises },
  { codec: 'lzma', encode: encodeLzma },
];

/** The stream that bzip2 was tried on last, and the length of the result. */
let last: { readonly plain: Uint8Array; readonly bzip2Bytes: number | undefined } | undefined;

/** @returns undefined where a part of a dense stream shows that LZMA will be shorter */
async function bzip2WhereItPromises(plain: Uint8Array): Promise<Buffer | undefined> {
  const coded = (await isSurelyLzma(plain)) ? undefined : encodeBzip2(plain);
  last = { plain, bzip2Bytes: coded?.length };
  return coded;
}

async function isSurelyLzma(plain: Uint8Array): Promise<boolean> {
  if (plain.length <= 2 * TRIED_BYTES) return false;
  const from = (plain.length - TRIED_BYTES) >>> 1;
  const part = plain.subarray(from, from + TRIED_BYTES);
  const quick = await rawLzma(part, QUICK);
  return isDense(quick, part) && quick.length < SURELY_BETTER * encodeBzip2(part).length;
}

/** Must be called after bzip2 for the same stream. @returns a byte of properties, and the raw LZMA stream */
async function encodeLzma(plain: Uint8Array): Promise<Buffer> {
  const coded = await wellSearched(plain, last?.plain === plain ? last.bzip2Bytes : undefined);
  return Buffer.concat([Buffer.of(LITERAL_CONTEXT_BITS), coded]);
}

/** Tries quick LZMA first. Thorough LZMA takes 30 times as long: where bzip2 is shorter in the end, that would be most of the work. */
async function wellSearched(plain: Uint8Array, bzip2Bytes: number | undefined): Promise<Buffer> {
  if (bzip2Bytes === undefined) return rawLzma(plain, DENSE);
  const quick = await rawLzma(plain, QUICK);
  if (quick.length > HOPELESS * bzip2Bytes) return quick;
  return rawLzma(plain, isDense(quick, plain) ? DENSE : THOROUGH);
}

function isDense(quick: Uint8Array, plain: Uint8Array): boolean {
  return quick.length > DENSE_PART * plain.length;
}

function rawLzma(
  plain: Uint8Array,
  search: Pick<lzma.LzmaFilterOptions, 'mode' | 'niceLen' | 'mf'>,
): Promise<Buffer> {
  // Without `preset`, which would override the other options.
  const dictSize = Math.min(DICTIONARY_BYTES, Math.max(MIN_DICTIONARY_BYTES, plain.length));
  const options = { dictSize, lc: LITERAL_CONTEXT_BITS, lp: 0, pb: 0, depth: 0, ...search };
  const stream = lzma.createStream('rawEncoder', {
    synchronous: true,
    filters: [{ id: lzma.FILTER_LZMA1, options }],
  });
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    stream.on('data', (part: Buffer) => parts.push(part));
    stream.on('error', reject);
    stream.on('end', () => resolve(Buffer.concat(parts)));
    stream.end(Buffer.from(plain.buffer, plain.byteOffset, plain.byteLength));
  });
}
