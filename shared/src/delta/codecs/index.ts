import { decodeBzip2, MAX_BLOCK_BYTES } from './bzip2.ts';
import { decodeLzma } from './lzma.ts';
import { badStream, type StreamCodec } from './stream-codec.ts';

/**
 * Memory for the blocks of bzip2, by far the largest part of what decoders need: 3.6 MB, of which only the length of the stream's blocks
 * is touched.
 */
export const BLOCKS_BYTES = MAX_BLOCK_BYTES * Uint32Array.BYTES_PER_ELEMENT;

/**
 * Decodes one stream into `plain`, and fills all of it.
 * @param blocks memory of BLOCKS_BYTES; undefined: the decoder allocates what it needs
 * @returns how many bytes of `coded` were read; those after them aren't needed
 * @throws SITECAST_PATCH_STREAM where the stream doesn't give exactly as many bytes
 */
type Decoder = (coded: Uint8Array, plain: Uint8Array, blocks: Uint32Array | undefined) => number;

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

/** Decodes one stream of a patch, as a `Decoder` of `codec` does; `blocks` is for a caller who decodes many. */
export function decodeStream(
  codec: StreamCodec,
  coded: Uint8Array,
  plain: Uint8Array,
  blocks?: Uint32Array,
): number {
  return DECODERS[codec](coded, plain, blocks);
}
