import { SitecastError } from '../../errors.ts';

/** How one stream of a patch is coded. A patch stores the codec's place in this list. */
export const STREAM_CODECS = ['stored', 'bzip2', 'lzma'] as const;
export type StreamCodec = (typeof STREAM_CODECS)[number];

export function badStream(codec: StreamCodec, what: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_PATCH_STREAM',
    `a ${codec} stream of the patch is wrong: ${what}`,
  );
}
