import { SitecastError } from '@sitecast/shared/errors';
import { requireFleetKey } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { FleetNode } from '@sitecast/shared/swarm';
import type { News } from '../gossip/news.ts';
import type { Log } from '../log.ts';
import type { GatewaySettings } from '../settings.ts';
import { pause, withJitter } from '../upstream/backoff.ts';

/** How often it's looked whether the peers that were named are still connected. */
const DIAL_EVERY_MS = 30_000;

interface FleetNewsOptions {
  settings: Pick<GatewaySettings, 'gossipListen' | 'gossipPeer' | 'fleetKeyFile'>;
  identity: Identity;
  now: () => number;
  log: Log;
  signal: AbortSignal;
}

/**
 * Joins the fleet's network, if the settings say so. libp2p isn't loaded otherwise.
 * @throws SITECAST_FLEET_KEY_MISSING, SITECAST_FLEET_KEY_INVALID, SITECAST_KEY_PERMISSIONS, and whatever keeps it from listening
 */
export async function openFleetNews(options: FleetNewsOptions): Promise<News | undefined> {
  const { settings, identity, now, log, signal } = options;
  const { gossipListen = [], gossipPeer = [], fleetKeyFile } = settings;
  if (gossipListen.length === 0 && gossipPeer.length === 0) return undefined;
  const fleetKey = await requireFleetKey(fleetKeyFile);
  const { announcementOf, createFleetNode, judge } = await import('@sitecast/shared/swarm');
  const node = await createFleetNode({ identity, listen: gossipListen, fleetKey });
  log.info({ addresses: node.addresses }, "joined the fleet's network");
  const dialling = keepDialled(node, gossipPeer, log, signal);
  return {
    listen: ({ trusted, onNews }) => {
      const verdictOn = judge({ trusted, now, onNewerRoot: onNews });
      node.gossip.onAnnouncement((announcement, from) => {
        const verdict = verdictOn(announcement);
        if (verdict === 'accept') onNews();
        if (verdict === 'reject') log.warn({ peer: from }, 'a neighbour announced what is refused');
        return verdict;
      });
    },
    tell: async ({ rootVersion, timestamp, files }) => {
      await node.gossip.announce(announcementOf(rootVersion, timestamp, files));
    },
    close: async () => {
      await node.close();
      await dialling;
    },
  };
}

/** Until the signal comes. */
async function keepDialled(
  node: FleetNode,
  addresses: readonly string[],
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  do {
    for (const address of addresses) {
      if (signal.aborted || node.connected.some(id => address.endsWith(`/p2p/${id}`))) continue;
      try {
        await node.dial(address, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof SitecastError)) throw error;
        log.info({ peer: address, code: error.code }, 'a gossip peer is out of reach; it is tried again');
      }
    }
  } while (await pause(withJitter(DIAL_EVERY_MS), signal));
}
