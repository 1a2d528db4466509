import { createHash } from 'node:crypto';
import type { SitecastError } from '@sitecast/shared/errors';
import type { JoinToken } from '@sitecast/shared/fleet';
import type { Log } from '@sitecast/shared/log';
import type { TrustedNow } from '@sitecast/shared/swarm';
import { type FoundTarget, type MetadataStore, rememberingVerifier, TufClient } from '@sitecast/shared/trust';
import { ChunkAllowlist } from './chunks/allowlist.ts';
import type { SiteDevices } from './devices/site-devices.ts';
import { Follower } from './mirror/follower.ts';
import { Mirror } from './mirror/mirror.ts';
import { isOrdered, type MirrorSet } from './mirror/mirror-set.ts';
import type { MirrorStore } from './mirror/mirror-store.ts';
import { rebuildIndexes } from './mirror/rebuilt-indexes.ts';
import { RootHistory } from './mirror/root-history.ts';
import type { Sources } from './mirror/sources.ts';
import { SwitchableFetcher, Synchroniser } from './mirror/synchroniser.ts';
import { TargetFiles } from './mirror/target-files.ts';
import { announceSets, type FleetNetwork } from './peer-gateways/announcements.ts';
import type { GatewaySettings } from './settings.ts';
import type { Upstream } from './upstream/upstream.ts';

interface MirrorServicesDeps {
  settings: Pick<GatewaySettings, 'fleetUpload'>;
  mirrorStore: MirrorStore;
  sources: Sources;
  upstreams: readonly Upstream[];
  onRefused: (url: string, error: SitecastError) => void;
  devices: Pick<SiteDevices, 'isRun'>;
  log: Log;
}

export type MirrorServices = ReturnType<typeof openMirrorServices>;

interface FollowerDeps
  extends Omit<MirrorServicesDeps, 'settings' | 'devices'>,
    Pick<MirrorServices, 'mirror' | 'targets' | 'allowlist' | 'isRun'> {
  settings: Pick<GatewaySettings, 'poll'>;
  trustStore: MetadataStore;
  token: JoinToken | undefined;
  fleetNetwork: Pick<FleetNetwork, 'announce' | 'listen'> | undefined;
  /** Called with each set that is served from now on. */
  onSwap: (set: MirrorSet) => void;
  now: () => number;
}

/** Opens the mirror: the files of the origin's repository that are stored here, and the chunks that they name. */
export function openMirrorServices({
  settings,
  mirrorStore,
  sources,
  upstreams,
  onRefused,
  devices,
  log,
}: MirrorServicesDeps) {
  const mirror = new Mirror();
  const origin = upstreams.filter(({ isOrigin }) => isOrigin);
  const targets = new TargetFiles({ store: mirrorStore, sources, origin, log, onRefused });
  const allowlist = new ChunkAllowlist({
    local: target => targets.local(target),
    givesToOthers: settings.fleetUpload !== undefined,
    log,
  });
  const isRun = (product: string, counter: number): boolean => devices.isRun(product, counter);
  const fetchTarget = async (target: FoundTarget): Promise<Uint8Array> => {
    if (mirror.current) await rebuildIndexes([target], mirror.current.targets, { files: targets, isRun });
    const bytes = await targets.get(target);
    await allowlist.add(target);
    return bytes;
  };
  const fetchForGateway = async (target: FoundTarget): Promise<Uint8Array | undefined> => {
    if (!mirror.current || !isOrdered(target, mirror.current.rollouts)) return undefined;
    const bytes = await targets.getForGateway(target);
    await allowlist.add(target);
    return bytes;
  };
  return { mirror, targets, allowlist, fetchTarget, fetchForGateway, isRun };
}

/** Serves the stored set, and opens what keeps the mirror up to date with the upstreams. */
export async function openFollower(deps: FollowerDeps): Promise<Follower> {
  const { settings, trustStore, mirrorStore, token, upstreams, sources, onRefused, fleetNetwork } = deps;
  const { mirror, targets, allowlist, isRun, onSwap, now, log } = deps;
  const switchable = new SwitchableFetcher();
  // Gossip, the client and the set all verify the same signatures.
  const verify = rememberingVerifier();
  const client = await TufClient.open({ store: trustStore, fetcher: switchable, now, verify });
  const roots = new RootHistory({
    mirror,
    store: mirrorStore,
    isRightFirst: bytes => !token || createHash('sha256').update(bytes).digest('hex') === token.rootSha256,
  });
  const announce = fleetNetwork && announceSets(fleetNetwork, log);
  const synchroniser = new Synchroniser({
    client,
    switchable,
    sources,
    mirror,
    store: mirrorStore,
    targets,
    roots,
    verify,
    log,
    onRefused,
    beforeSwap: set => allowlist.follow(set),
    isRun,
    afterSwap: (set, { isStored }) => {
      onSwap(set);
      // Others have the set that this gateway stored before its start.
      if (!isStored) announce?.(set);
    },
  });
  const follower = new Follower({ synchroniser, upstreams, now, log, pollMs: settings.poll });
  await synchroniser.load();
  fleetNetwork?.listen({
    trusted: () => trustedBytes(client),
    verify,
    onNewer: news => follower.wake(news),
  });
  return follower;
}

function trustedBytes({ trusted: { root, timestamp, snapshot } }: TufClient): TrustedNow {
  return { root: root.bytes, timestamp: timestamp?.bytes, snapshot: snapshot?.bytes };
}
