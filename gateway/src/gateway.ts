import { sleep } from '@sitecast/shared/async';
import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { SitecastError } from '@sitecast/shared/errors';
import { type FoundTarget, rememberingVerifier, TufClient } from '@sitecast/shared/trust';
import type { DiskCache } from './chunks/disk-cache.ts';
import { ChunkAllowlist } from './chunks/allowlist.ts';
import { createApp, type GatewayApp } from './http/app.ts';
import { announceSets } from './peer-gateways/announcements.ts';
import { type ChunkHandler, chunkHandler } from './http/chunk-handler.ts';
import { Follower } from './mirror/follower.ts';
import { Mirror } from './mirror/mirror.ts';
import type { MirrorSet } from './mirror/mirror-set.ts';
import { RootHistory } from './mirror/root-history.ts';
import { SwitchableFetcher, Synchroniser } from './mirror/synchroniser.ts';
import { TargetFiles } from './mirror/target-files.ts';
import type { GatewayParts } from './parts.ts';
import { countDevices, openSite } from './site.ts';
import { openSupply } from './supply.ts';

/** After a part of the gateway failed without a reason of Sitecast's, how soon it's started again. */
const RESTART_AFTER_MS = 1000;

/** The rooms of a gateway, joined: what each of them does, it does alone. */
export class Gateway {
  readonly app: GatewayApp;
  readonly handleChunk: ChunkHandler;
  readonly #parts: GatewayParts;
  readonly #tasks: Record<string, (signal: AbortSignal) => Promise<void>>;
  readonly #cache: DiskCache;

  private constructor(
    parts: GatewayParts,
    rooms: {
      app: GatewayApp;
      handleChunk: ChunkHandler;
      cache: DiskCache;
      tasks: Record<string, (signal: AbortSignal) => Promise<void>>;
    },
  ) {
    this.#parts = parts;
    this.app = rooms.app;
    this.handleChunk = rooms.handleChunk;
    this.#cache = rooms.cache;
    this.#tasks = rooms.tasks;
  }

  /** Takes up what the data directory holds; makes no request. */
  static async open(parts: GatewayParts): Promise<Gateway> {
    const mirrored = await openMirror(parts);
    const { mirror } = mirrored;
    const site = await openSite(parts, mirror);
    const isOwnRevoked = (): boolean => site.isRevoked(parts.identity.id);
    const supply = await openSupply(parts, { mirrored, site });
    const { peerGateways, cache, pipeline } = supply;
    mirrored.onServed.push(siteFollows(parts, site, isOwnRevoked));
    await mirrored.synchroniser.load();
    followNews(parts, mirrored);

    const { metrics, database, freeBytes, now, log } = parts;
    const { hosts } = parts.connections;
    const app = createApp({
      ...site,
      self: () => ({ id: parts.identity.id, ...(site.devices.site && { site: site.devices.site }) }),
      onGatewaySeen: id => {
        if (!peerGateways.met(id)) site.introduction.onUnknownGateway();
      },
      isOwnRevoked,
      mirror,
      targets: mirrored.targets,
      fetchTarget: mirrored.fetchTarget,
      hosts,
      metrics,
      database,
      now,
      log,
    });
    const handleChunk = chunkHandler({
      chunks: pipeline,
      onAnswer: (status, sentBytes) => metrics.chunkAnswered(status, sentBytes),
      hosts,
      log,
    });
    metrics.watch({
      chunkCounts: () => pipeline.counts(),
      siteGateways: () => 1 + peerGateways.liveCount,
      gossipConnections: () => parts.announcements?.connections ?? 0,
      cache: () => cache,
      allowedChunks: () => mirrored.named.size,
      queue: () => site.queue,
      reportsOverBudget: () => site.reports.overBudget,
      mirrorSet: () => mirror.current,
      isMirrorComplete: () => mirror.isComplete,
      waiters: () => mirror.waiters,
      devices: () => site.devices.total,
      trackedPeers: () => site.tracker.size,
      heardDevices: () => site.heard.now().size,
      heldLeases: () => site.leases.held(),
      linkedDevices: () => supply.fromDevices?.linked ?? 0,
      dropped: () => dropped(parts, site, pipeline.givenUp()),
      lastContactMs: () => mirrored.follower.lastContactMs,
      isEnrolled: () => site.own.state === 'enrolled',
      freeBytes,
      database: () => database,
      now,
    });
    const tasks = { follow: (signal: AbortSignal) => mirrored.follower.run(signal), ...supply.tasks };
    return new Gateway(parts, { app, handleChunk, cache, tasks: { ...siteTasks(site), ...tasks } });
  }

  /** Works until the signal comes, and all of it has stopped. */
  async run(signal: AbortSignal): Promise<void> {
    // Each of them waits for it in a few places.
    setMaxListeners(4 * Object.keys(this.#tasks).length, signal);
    await Promise.all(
      Object.entries(this.#tasks).map(async ([name, run]) => {
        while (!signal.aborted) {
          try {
            await run(signal);
          } catch (error) {
            this.#parts.log.error(
              { err: error, part: name },
              'a part of the gateway failed; it starts again',
            );
          }
          await sleep(RESTART_AFTER_MS, signal);
        }
      }),
    );
  }

  /** Writes down what may be lost, but better isn't. */
  async flush(): Promise<void> {
    await this.#cache.flush();
  }
}

/** What made room for others, or found none, so far: by what it was. */
function dropped(
  { connections, siteNode, announcements }: GatewayParts,
  { assignments, acknowledgements, enrolments }: Awaited<ReturnType<typeof openSite>>,
  chunksGivenUp: number,
): Record<string, number> {
  return {
    http: connections.dropped,
    peers: siteNode?.dropped ?? 0,
    gossip: announcements?.dropped ?? 0,
    chunks: chunksGivenUp,
    documents: assignments.givenUp + acknowledgements.givenUp,
    enrolments: enrolments.givenUp,
  };
}

/** What a site learns of each set that is served: who is revoked, and, once it can be verified, which devices there are. */
function siteFollows(
  { siteNode, log }: GatewayParts,
  site: Awaited<ReturnType<typeof openSite>>,
  isOwnRevoked: () => boolean,
): (set: MirrorSet) => void {
  let isCounted = false;
  return ({ rollouts, rolloutsSigners }) => {
    const wasRevoked = isOwnRevoked();
    for (const id of site.revocations.update(rollouts)) siteNode?.drop(id);
    if (isOwnRevoked() && !wasRevoked)
      log.error({}, 'the operator has revoked this gateway: it takes nothing in');
    if (isCounted || !rolloutsSigners) return;
    isCounted = true;
    countDevices(site).catch((error: unknown) =>
      log.error({ err: error }, 'the devices of the site could not be counted'),
    );
  };
}

async function openMirror(parts: GatewayParts) {
  const { upstreams, trustStore, mirrorStore, token, settings, metrics, now, log } = parts;
  const switchable = new SwitchableFetcher();
  // What comes is read by the judge of gossip, by the client and once more as a set.
  const verify = rememberingVerifier();
  const client = await TufClient.open({ store: trustStore, fetcher: switchable, now, verify });
  const mirror = new Mirror();
  const onRefused = (url: string, error: SitecastError): void => metrics.refused(url, error.code);
  const targets = new TargetFiles({ store: mirrorStore, upstreams, log, onRefused });
  const named = new ChunkAllowlist({ local: target => targets.local(target), log });
  const roots = new RootHistory({
    mirror,
    store: mirrorStore,
    isRightFirst: bytes => !token || createHash('sha256').update(bytes).digest('hex') === token.rootSha256,
  });
  const onServed: ((set: MirrorSet) => void)[] = [];
  const synchroniser = new Synchroniser({
    client,
    switchable,
    upstreams,
    mirror,
    store: mirrorStore,
    targets,
    roots,
    verify,
    log,
    onRefused,
    beforeSwap: set => named.follow(set),
    afterSwap: set => {
      for (const follow of onServed) follow(set);
    },
  });
  const follower = new Follower({ synchroniser, upstreams, now, log, pollMs: settings.poll });
  const fetchTarget = async (target: FoundTarget): Promise<Uint8Array> => {
    const bytes = await targets.get(target);
    if (target.name.endsWith('.caibx')) await named.add(target);
    return bytes;
  };
  const trusted = () => {
    const { root, timestamp, snapshot } = client.trusted;
    return { root: root.bytes, timestamp: timestamp?.bytes, snapshot: snapshot?.bytes };
  };
  return { mirror, targets, named, synchroniser, follower, fetchTarget, onServed, trusted, verify };
}

function followNews(
  { announcements, log }: GatewayParts,
  { trusted, verify, follower, onServed }: Awaited<ReturnType<typeof openMirror>>,
): void {
  if (!announcements) return;
  announcements.listen({ trusted, verify, onNewer: () => follower.wake() });
  onServed.push(announceSets(announcements, log));
}

/** What goes on between the site and the origin for as long as the gateway runs. */
function siteTasks(site: Awaited<ReturnType<typeof openSite>>) {
  return {
    enrol: (signal: AbortSignal) => site.own.run(signal),
    meet: (signal: AbortSignal) => site.introduction.run(signal),
    sendReports: (signal: AbortSignal) => site.sender.run(signal),
    sendProgress: (signal: AbortSignal) => site.progress.run(signal),
    tellPresence: (signal: AbortSignal) => site.presence.run(signal),
  };
}
