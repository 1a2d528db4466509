import lzma from 'lzma-native';
import type { StreamEncoder } from '@sitecast/shared/delta';
import { encodeBzip2 } from './bzip2/encode.ts';

/** `lc=3 lp=0 pb=0`: differences of bytes know no alignment. With `lc=0` a patch is some hundredths of a percent shorter, in twice the time. */
const LITERAL_CONTEXT_BITS = 3;
/** No longer than a window: with 8 MiB, opened ones of kernels become no shorter, and it takes 50 MiB more. */
const DICTIONARY_BYTES = 4 * 1024 * 1024;
const MIN_DICTIONARY_BYTES = 4096;
const THOROUGH = { mode: lzma.MODE_NORMAL, niceLen: 273, mf: lzma.MF_BT4 };
/** In a dense stream long matches are rare: to look for them is more than half of the time, and gains two hundredths. */
const DENSE = { ...THOROUGH, niceLen: 96 };
/** A stream is dense whose quick code is longer than this part of it: of programs compiled anew, not of few changes. */
const DENSE_PART = 1 / 50;
const QUICK = { mode: lzma.MODE_FAST, niceLen: 64, mf: lzma.MF_HC4 };
/** A quick LZMA stream that is so many times as long as the bzip2 stream isn't made thoroughly, which would save about a third of it. */
const HOPELESS = 1.5;
/** Of a stream that is more than twice as long, a part of this length is coded first, to see what promises something. */
const TRIED_BYTES = 400_000;
/** Where quick LZMA makes less than so many times what bzip2 makes, thorough LZMA makes less than bzip2. */
const SURELY_BETTER = 1.1;

/** What codes the streams of patches, in this order. */
export const STREAM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: bzip2WhereItPromises },
  { codec: 'lzma', encode: encodeLzma },
];

/** What is known of the stream that was coded last. */
let last: { readonly plain: Uint8Array; readonly bzip2Bytes: number | undefined } | undefined;

/** @returns nothing where a part of a dense stream shows that LZMA makes less */
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

/** To be asked after bzip2. @returns a byte of properties, and the raw LZMA stream */
async function encodeLzma(plain: Uint8Array): Promise<Buffer> {
  const coded = await wellSearched(plain, last?.plain === plain ? last.bzip2Bytes : undefined);
  return Buffer.concat([Buffer.of(LITERAL_CONTEXT_BITS), coded]);
}

/** Tries quickly first: the thorough way takes 30 times as long, more than all the rest where bzip2 wins in the end. */
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
  // Without `preset`, which would override all others.
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
