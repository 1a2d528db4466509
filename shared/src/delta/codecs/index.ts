import { decodeBzip2 } from './bzip2.ts';
import { decodeLzma } from './lzma.ts';
import { badStream, type StreamCodec } from './stream-codec.ts';

/**
 * Decodes one stream into `plain`, all of which it fills.
 * @returns how many bytes of `coded` it looked at; what follows them isn't needed
 * @throws SITECAST_PATCH_STREAM where the stream doesn't give exactly as many bytes
 */
type Decoder = (coded: Uint8Array, plain: Uint8Array) => number;

const DECODERS: Readonly<Record<StreamCodec, Decoder>> = {
  stored: decodeStored,
  bzip2: decodeBzip2,
  lzma: decodeLzma,
};

function decodeStored(coded: Uint8Array, plain: Uint8Array): number {
  if (coded.length !== plain.length)
    throw badStream('stored', `it holds ${coded.length} of ${plain.length} bytes`);
  plain.set(coded);
  return coded.length;
}

/** Decodes one stream of a patch, as a `Decoder` of `codec` does. */
export function decodeStream(codec: StreamCodec, coded: Uint8Array, plain: Uint8Array): number {
  return DECODERS[codec](coded, plain);
}
