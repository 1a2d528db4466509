import lzma from 'lzma-native';
import type { StreamEncoder } from '@sitecast/shared/delta';
import { encodeBzip2 } from './bzip2/encode.ts';

/** `lc=3 lp=0 pb=0`: differences of bytes know no alignment. With `lc=0` a patch is some hundredths of a percent shorter, in twice the time. */
const LITERAL_CONTEXT_BITS = 3;
const DICTIONARY_BYTES = 8 * 1024 * 1024;
const NICE_BYTES = 273;

/** What codes the streams of patches. */
export const STREAM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: encodeBzip2 },
  { codec: 'lzma', encode: encodeLzma },
];

/** @returns a byte of properties, and the raw LZMA stream */
async function encodeLzma(plain: Uint8Array): Promise<Buffer> {
  return Buffer.concat([Buffer.of(LITERAL_CONTEXT_BITS), await rawLzma(plain)]);
}

function rawLzma(plain: Uint8Array): Promise<Buffer> {
  // Without `preset`, which would override all others.
  const options: lzma.LzmaFilterOptions = {
    dictSize: DICTIONARY_BYTES,
    lc: LITERAL_CONTEXT_BITS,
    lp: 0,
    pb: 0,
    mode: lzma.MODE_NORMAL,
    niceLen: NICE_BYTES,
    mf: lzma.MF_BT4,
    depth: 0,
  };
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
