import { SitecastError } from '../../errors.ts';

/** How one stream of a patch is coded: numbers as they stand in the patch. */
export const STREAM_CODECS = ['stored', 'bzip2', 'lzma'] as const;
export type StreamCodec = (typeof STREAM_CODECS)[number];

/**
 * Decodes one stream into `plain`, all of which it fills.
 * @returns how many bytes of `coded` it looked at; what follows them isn't needed
 * @throws SITECAST_PATCH_STREAM where the stream doesn't give exactly as many bytes
 */
type Decoder = (coded: Uint8Array, plain: Uint8Array) => number;

const DECODERS: Readonly<Record<StreamCodec, Decoder | undefined>> = {
  stored: decodeStored,
  bzip2: undefined,
  lzma: undefined,
};

function decodeStored(coded: Uint8Array, plain: Uint8Array): number {
  if (coded.length !== plain.length)
    throw badStream('stored', `it holds ${coded.length} of ${plain.length} bytes`);
  plain.set(coded);
  return coded.length;
}

/** @throws SITECAST_PATCH_STREAM */
export function decodeStream(codec: StreamCodec, coded: Uint8Array, plain: Uint8Array): number {
  const decoder = DECODERS[codec];
  if (decoder === undefined) throw badStream(codec, 'there is no decoder');
  return decoder(coded, plain);
}

export function badStream(codec: StreamCodec, what: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_PATCH_STREAM',
    `a ${codec} stream of the patch is wrong: ${what}`,
  );
}
