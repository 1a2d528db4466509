import { SitecastError } from '../../errors.ts';

/** A compressed piece that is malformed, larger than stated, or not encoded as its encoder would. */
export function wrongPiece(reason: string, cause?: unknown): never {
  throw new SitecastError(
    'badInput',
    'SITECAST_PATCH_PIECE',
    `A compressed piece can't be opened or closed: ${reason}.`,
    { cause },
  );
}
