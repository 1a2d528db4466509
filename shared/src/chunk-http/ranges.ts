import parseRange from 'range-parser';
import { SitecastError } from '../errors.ts';

/** `Cache-Control` for content that never changes under its name. */
export const IMMUTABLE = 'public, max-age=31536000, immutable';

/**
 * The part that a request asks for; undefined: all of it.
 * @returns `start` and `end`, both included
 */
export function rangeOf(
  { range, ifRange }: { range: string | undefined; ifRange: string | undefined },
  etag: string,
  lengthBytes: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  if (range === undefined) return undefined;
  // `If-Range` has a date, or names other bytes: the whole file is sent.
  if (ifRange !== undefined && ifRange !== etag) return undefined;
  const ranges = parseRange(lengthBytes, range);
  if (ranges === -1) return 'unsatisfiable';
  if (ranges === -2 || ranges.type !== 'bytes' || ranges.length !== 1) return undefined;
  return ranges[0];
}

export function rangeError(lengthBytes: number): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_RANGE_UNSATISFIABLE',
    `the range lies beyond the ${lengthBytes} bytes of the file`,
  );
}
