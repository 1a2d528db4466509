import type { TrustedNow } from '@sitecast/shared/swarm';
import type { VerifySignature } from '@sitecast/shared/trust';
import type { Log } from '@sitecast/shared/log';
import type { MirrorSet } from '../mirror/mirror-set.ts';

/** What a gateway has to tell another. */
interface SetAnnouncement {
  rootVersion: number;
  timestamp: Uint8Array;
  /** The metadata that came with this timestamp, by its versioned name; what's too large is left out. */
  files: ReadonlyMap<string, Uint8Array>;
}

/** The fleet's network, as far as a gateway needs it. Without it changes come by long poll alone. */
export interface Announcements {
  /** Multiaddresses under which others reach this gateway there. */
  addresses(): string[];
  /** How many are connected there. */
  readonly connections: number;
  /** Connections ended or refused, so far, because others needed their places. */
  readonly dropped: number;
  /**
   * @param listener `onNewer` is called when others tell of something newer that is rightly signed, or of a newer root;
   *   `verify` says whether a signature is right
   */
  listen(listener: { trusted: () => TrustedNow; verify: VerifySignature; onNewer: () => void }): void;
  announce(announcement: SetAnnouncement): Promise<void>;
  close(): Promise<void>;
}

/** Tells the others of each set that is served from now on. What they know already goes no further than them. */
export function announceSets(announcements: Announcements, log: Log): (set: MirrorSet) => void {
  let last: MirrorSet | undefined;
  return set => {
    const before = last;
    last = set;
    const timestamp = set.served.get('timestamp.json');
    const rootVersion = versionOf(set, 'root');
    if (!timestamp || rootVersion === undefined) return;
    // Completed since, and otherwise as it was.
    if (['root', 'timestamp'].every(role => before && versionOf(before, role) === versionOf(set, role)))
      return;
    const files = filesSince(before, set);
    announcements.announce({ rootVersion, timestamp, files }).catch((error: unknown) => {
      log.warn({ err: error }, 'the other gateways could not be told of a new set');
    });
  };
}

/**
 * What the timestamp has brought, the same for everybody who had the set before it, the origin among them: so one who announces
 * it too says nothing new. Who had another one tells of the timestamp alone.
 */
function filesSince(before: MirrorSet | undefined, set: MirrorSet): Map<string, Uint8Array> {
  const version = versionOf(set, 'timestamp');
  if (!before || version === undefined || versionOf(before, 'timestamp') !== version - 1) return new Map();
  return new Map([...set.served].filter(([name]) => name !== 'timestamp.json' && !before.served.has(name)));
}

function versionOf({ roles }: MirrorSet, role: string): number | undefined {
  return roles.find(found => found.role === role)?.version;
}
