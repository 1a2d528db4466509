import { SitecastError } from '@sitecast/shared/errors';

/** How much free space the data directory's file system has. */
export interface Room {
  freeBytes(): Promise<number>;
  /** Free space that uploads, enrolments and reports must leave for operators and for what the origin signs. */
  readonly reserveBytes: number;
}

/**
 * Refuses work that must not use the reserve: it comes again by itself, or can be sent again.
 * @throws SITECAST_NO_SPACE (noSpace)
 */
export async function demandRoom(room: Room): Promise<void> {
  const { reserveBytes } = room;
  if ((await room.freeBytes()) >= reserveBytes) return;
  throw new SitecastError(
    'noSpace',
    'SITECAST_NO_SPACE',
    `the disk of the origin is full, but for the ${Math.ceil(reserveBytes / 2 ** 20)} MiB that are kept for operators`,
    { hint: "Make room below the origin's --data directory, then try again.", data: { reserveBytes } },
  );
}
