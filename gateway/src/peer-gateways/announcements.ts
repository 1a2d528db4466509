import type { TrustedNow } from '@sitecast/shared/swarm';
import type { VerifySignature } from '@sitecast/shared/trust';
import type { Log } from '@sitecast/shared/log';
import type { MirrorSet } from '../mirror/mirror-set.ts';
import type { NeighbourListener } from '../http/fleet-listener.ts';
import type { FleetNeighbours, News } from '../mirror/sources.ts';
import type { Upstream } from '../upstream/upstream.ts';

/** A new set in the form in which a gateway announces it. */
interface SetAnnouncement {
  rootVersion: number;
  timestamp: Uint8Array;
  /** The metadata that changed with this timestamp, by versioned name; files that are too large are left out. */
  files: ReadonlyMap<string, Uint8Array>;
}

/** A member of the fleet's network, reached over the connection that gossip uses. */
export type Neighbour = Omit<Upstream, 'waitForChange'>;

/**
 * The fleet's network, as far as a gateway needs it. Without it, a gateway learns of changes only by long poll, and fetches files only
 * over HTTP.
 */
export interface FleetNetwork {
  /** Multiaddresses at which other gateways reach this one. */
  addresses(): string[];
  /** How many gateways are connected, including the origin. */
  readonly connections: number;
  /** Connections that were ended or refused since the start because others needed their places. */
  readonly dropped: number;
  readonly neighbours: FleetNeighbours<Neighbour>;
  /**
   * @param listener `onNewer` is called when others announce a newer set with valid signatures, or claim a newer root; `verify` checks one
   * signature
   */
  listen(listener: {
    trusted: () => TrustedNow;
    verify: VerifySignature;
    onNewer: (news: News) => void;
  }): void;
  /** Answers requests that other members send over their connections. */
  serve(listener: NeighbourListener): Promise<void>;
  announce(announcement: SetAnnouncement): Promise<void>;
  close(): Promise<void>;
}

/** Announces each set that is served from now on. A neighbour that knows an announcement already doesn't pass it on. */
export function announceSets(network: Pick<FleetNetwork, 'announce'>, log: Log): (set: MirrorSet) => void {
  let last: MirrorSet | undefined;
  return set => {
    const before = last;
    last = set;
    const timestamp = set.served.get('timestamp.json');
    const rootVersion = versionOf(set, 'root');
    if (!timestamp || rootVersion === undefined) return;
    // The set is the same; only missing files were added.
    if (['root', 'timestamp'].every(role => before && versionOf(before, role) === versionOf(set, role)))
      return;
    const files = filesSince(before, set);
    network.announce({ rootVersion, timestamp, files }).catch((error: unknown) => {
      log.warn({ err: error }, 'the other gateways could not be told of a new set');
    });
  };
}

/**
 * The files that changed with the timestamp. Every gateway that had the set before it, and the origin, finds the same files, so their
 * announcements are equal. A gateway that had another set announces only the timestamp.
 */
function filesSince(before: MirrorSet | undefined, set: MirrorSet): Map<string, Uint8Array> {
  const version = versionOf(set, 'timestamp');
  if (!before || version === undefined || versionOf(before, 'timestamp') !== version - 1) return new Map();
  return new Map([...set.served].filter(([name]) => name !== 'timestamp.json' && !before.served.has(name)));
}

function versionOf({ roles }: MirrorSet, role: string): number | undefined {
  return roles.find(found => found.role === role)?.version;
}
