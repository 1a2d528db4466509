import type { RequestListener } from 'node:http';
import { join } from 'node:path';
import { tellableAddresses } from '@sitecast/shared/api';
import type { SitecastError } from '@sitecast/shared/errors';
import { requireFleetKey } from '@sitecast/shared/fleet';
import { repositoryOnly } from '@sitecast/shared/http-guards';
import { Identity } from '@sitecast/shared/identity';
import { metadataPath } from '@sitecast/shared/trust';
import type { Registry } from '../fleet/registry.ts';
import { errorFields, type Log } from '../log.ts';
import type { Committed } from '../repository/committed.ts';
import type { Repository } from '../repository/repository.ts';
import type { GossipSettings } from '../settings.ts';
import type { After } from '../upkeep.ts';
import { createUnboundServer } from './http-server.ts';

/** The origin is the centre of a star: sites that can't reach each other are all connected here. */
const MAX_CONNECTIONS = 2000;
/** How soon an announcement is tried again that found no peer. */
const TELL_AGAIN_MS = 2000;

interface FleetNodeDeps {
  gossip: GossipSettings;
  /** The origin's data directory. */
  directory: string;
  repository: Pick<Repository, 'committed' | 'onCommit'>;
  /** A gateway that was let in and isn't revoked always has a place, however many others connect. */
  registry: Pick<Registry, 'activeMember'>;
  now: () => number;
  after: After;
  log: Log;
}

/** The origin's place in the fleet's network. */
export interface OriginFleetNode {
  addresses(): string[];
  /** Gives the repository's files to gateways over their connections here. */
  serve(listener: RequestListener): Promise<void>;
  close(): Promise<void>;
}

/**
 * Joins the fleet's network, tells of what is published, and tells it again of each publication.
 * @throws SITECAST_FLEET_KEY_MISSING, SITECAST_FLEET_KEY_INVALID, SITECAST_KEY_PERMISSIONS, and whatever keeps it from listening
 */
export async function openFleetNode(deps: FleetNodeDeps): Promise<OriginFleetNode | undefined> {
  const { gossip, directory, repository, now, after, log } = deps;
  if (gossip.listen.length === 0) return warnOfIdle(gossip, log);
  const fleetKey = await requireFleetKey(gossip.fleetKeyFile);
  const { announcementOf, createFleetNode, judge, serveHttpStreams } = await import('@sitecast/shared/swarm');
  const identity = await Identity.open(join(directory, 'fleet'), { warn: message => log.warn({}, message) });
  const node = await createFleetNode({
    identity,
    ...gossip,
    fleetKey,
    maxConnections: MAX_CONNECTIONS,
    isKnown: id => deps.registry.activeMember(id)?.kind === 'gateway',
    onForeignKey: trouble => warnOfForeignKey(trouble, log),
  });
  log.info({ addresses: node.addresses }, "joined the fleet's network");

  node.gossip.onAnnouncement((announcement, from) => {
    const { committed } = repository;
    if (!committed) return 'ignore';
    const { root, timestamp, snapshot } = committed;
    const trusted = { root: root.bytes, timestamp: timestamp.bytes, snapshot: snapshot.bytes };
    const verdict = judge({ trusted: () => trusted, now })(announcement);
    if (verdict === 'reject') log.warn({ peer: from }, 'a gateway announced what is refused');
    // Only this origin publishes: another process has its keys, or it was restored and hasn't caught up.
    if (verdict === 'accept')
      log.error({ peer: from }, 'a gateway knows of a newer publication than this origin');
    return verdict;
  });

  let cancel = (): void => {};
  let [newest, before]: (Committed | undefined)[] = [repository.committed];
  const tell = async (): Promise<void> => {
    cancel();
    const { committed } = repository;
    if (!committed) return;
    if (node.gossip.neighbours.length === 0) {
      cancel = after(TELL_AGAIN_MS, tellLogged);
      return;
    }
    const files = filesSince(before, committed);
    await node.gossip.announce(
      announcementOf(committed.root.signed.version, committed.timestamp.bytes, files),
    );
  };
  const tellLogged = (): void => {
    tell().catch((error: unknown) => log.warn(errorFields(error), 'a publication could not be announced'));
  };
  const stopListening = repository.onCommit(() => {
    [newest, before] = [repository.committed, newest];
    tellLogged();
  });
  tellLogged();
  return {
    addresses: () => tellableAddresses(node.addresses),
    serve: listener => serveHttpStreams(node, createUnboundServer(forGateways(listener))),
    close: async () => {
      stopListening();
      cancel();
      await node.close();
    },
  };
}

/** A unit file that is set up step by step must not keep the origin from starting. */
function warnOfIdle({ announce, fleetKeyFile }: GossipSettings, log: Log): undefined {
  const idle = [
    ...(announce.length > 0 ? ['--gossip-announce'] : []),
    ...(fleetKeyFile === undefined ? [] : ['--fleet-key-file']),
  ];
  if (idle.length === 0) return undefined;
  const hint = 'Join it with --gossip-listen.';
  log.warn({ hint }, `without effect: ${idle.join(', ')}: this origin isn't in the fleet's network`);
  return undefined;
}

/** Any machine that reaches the port can cause it: the log holds repeats back. */
function warnOfForeignKey({ code, message: detail, hint }: SitecastError, log: Log): void {
  log.warn({ code, detail, hint }, "a machine that connects doesn't speak with this fleet's key");
}

/** The repository's files, and what gateways ask in their own names, as over HTTP: the origin verifies who has signed it. */
function forGateways(listener: RequestListener): RequestListener {
  const files = repositoryOnly(listener);
  return (request, response) =>
    request.url?.startsWith('/site/v1/') === true ? listener(request, response) : files(request, response);
}

/**
 * What the timestamp has brought. In the same bytes as a gateway that serves the set and had the one before: gossip counts
 * equal messages as one.
 */
function filesSince(before: Committed | undefined, committed: Committed): Map<string, Uint8Array> {
  if (before?.timestamp.signed.version !== committed.timestamp.signed.version - 1) return new Map();
  const known = metadataOf(before);
  return new Map([...metadataOf(committed)].filter(([name]) => !known.has(name)));
}

function metadataOf({ targets, snapshot, rollouts, deltas }: Committed): Map<string, Uint8Array> {
  return new Map(
    Object.entries({ snapshot, targets, rollouts, deltas }).map(([role, { signed, bytes }]) => [
      metadataPath(role, signed.version),
      bytes,
    ]),
  );
}
