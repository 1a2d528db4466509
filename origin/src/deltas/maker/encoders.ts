import lzma from 'lzma-native';
import type { StreamEncoder } from '@sitecast/shared/delta';
import { encodeBzip2 } from './bzip2/encode.ts';

/** `lc=3 lp=0 pb=0`: differences of bytes know no alignment. With `lc=0` a patch is some hundredths of a percent shorter, in twice the time. */
const LITERAL_CONTEXT_BITS = 3;
const DICTIONARY_BYTES = 8 * 1024 * 1024;
const THOROUGH = { mode: lzma.MODE_NORMAL, niceLen: 273, mf: lzma.MF_BT4 };
/** In a dense stream long matches are rare: to look for them is half of the time, and gains a hundredth. */
const DENSE = { ...THOROUGH, niceLen: 128 };
/** A stream is dense whose quick code is longer than this part of it: of programs compiled anew, not of few changes. */
const DENSE_PART = 1 / 50;
const QUICK = { mode: lzma.MODE_FAST, niceLen: 64, mf: lzma.MF_HC4 };
/** A quick LZMA stream that is so many times as long as the bzip2 stream isn't made thoroughly, which would save about a third of it. */
const HOPELESS = 1.5;

/** What codes the streams of patches, in this order. */
export const STREAM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: rememberedBzip2 },
  { codec: 'lzma', encode: encodeLzma },
];

/** The stream that was coded by bzip2 last, and how long it became. */
let last: { readonly plain: Uint8Array; readonly codedBytes: number } | undefined;

function rememberedBzip2(plain: Uint8Array): Buffer {
  const coded = encodeBzip2(plain);
  last = { plain, codedBytes: coded.length };
  return coded;
}

/**
 * Tries quickly first: the thorough way takes 30 times as long, more than all the rest where bzip2 wins in the end.
 * @returns a byte of properties, and the raw LZMA stream
 */
async function encodeLzma(plain: Uint8Array): Promise<Buffer> {
  const quick = await rawLzma(plain, QUICK);
  const isHopeless = last?.plain === plain && quick.length > HOPELESS * last.codedBytes;
  const search = quick.length > DENSE_PART * plain.length ? DENSE : THOROUGH;
  const coded = isHopeless ? quick : await rawLzma(plain, search);
  return Buffer.concat([Buffer.of(LITERAL_CONTEXT_BITS), coded]);
}

function rawLzma(
  plain: Uint8Array,
  search: Pick<lzma.LzmaFilterOptions, 'mode' | 'niceLen' | 'mf'>,
): Promise<Buffer> {
  // Without `preset`, which would override all others.
  const options = { dictSize: DICTIONARY_BYTES, lc: LITERAL_CONTEXT_BITS, lp: 0, pb: 0, depth: 0, ...search };
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
