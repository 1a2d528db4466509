import { SitecastError } from '@sitecast/shared/errors';
import { formatBytes } from '@sitecast/shared/text';

/** How much free space the data directory's file system has. */
export interface Room {
  freeBytes(): Promise<number>;
  /** Free space that uploads, enrolments and reports must leave for operators and for what the origin signs. */
  readonly reserveBytes: number;
  /** A directory on it, for operators. */
  readonly path: string;
}

/**
 * Refuses work that must not use the reserve: it comes again by itself, or can be sent again.
 * @throws SITECAST_NO_SPACE (noSpace)
 */
export async function demandRoom(room: Room): Promise<void> {
  const { reserveBytes, path } = room;
  const freeBytes = await room.freeBytes();
  if (freeBytes >= reserveBytes) return;
  throw new SitecastError(
    'noSpace',
    'SITECAST_NO_SPACE',
    `the disk of the origin is full: ${formatBytes(freeBytes)} are free on the file system of ${path}, and ${formatBytes(reserveBytes)} are kept for operators (--reserve)`,
    {
      hint: `Make room on the file system of ${path}; it goes on by itself, or try again.`,
      data: { path, freeBytes, reserveBytes },
    },
  );
}
