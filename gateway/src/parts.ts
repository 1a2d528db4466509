import type { SharedConnections } from '@sitecast/shared/http-guards';
import type { JoinToken } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { DatabaseState, KeyValueStore } from '@sitecast/shared/key-value';
import type { MetadataStore } from '@sitecast/shared/trust';
import type { FrameFiles } from './chunks/disk-cache.ts';
import type { PeerBook } from './peer-gateways/peer-book.ts';
import type { Announcements } from './peer-gateways/announcements.ts';
import type { Metrics } from './http/metrics.ts';
import type { Log } from './log.ts';
import type { MirrorStore } from './mirror/mirror-store.ts';
import type { SiteNode } from './devices/site-node.ts';
import type { GatewaySettings } from './settings.ts';
import type { PeerGatewayClient } from './peer-gateways/peer-gateways.ts';
import type { WanLimits } from './wan/wan-limits.ts';
import type { Upstream } from './upstream/upstream.ts';

/** What a gateway is made of: the ports, and what it was told. */
export interface GatewayParts {
  settings: Pick<
    GatewaySettings,
    'cacheBytes' | 'memoryBytes' | 'reserve' | 'poll' | 'site' | 'siteGateway' | 'prefetch'
  >;
  identity: Identity;
  /** Told the name that people gave to this gateway, again whenever its assignment is read. */
  onName?: (name: string | undefined) => void;
  token: JoinToken | undefined;
  upstreams: readonly Upstream[];
  trustStore: MetadataStore;
  mirrorStore: MirrorStore;
  frames: FrameFiles;
  /** A room's own part of the database. */
  records: (room: string) => KeyValueStore;
  database: DatabaseState;
  /** On the data directory's file system. */
  freeBytes: () => Promise<number>;
  metrics: Metrics;
  /** Of its HTTP side. */
  connections: Pick<SharedConnections, 'hosts' | 'dropped'>;
  /** Undefined: this gateway isn't in the fleet's network. */
  announcements?: Announcements | undefined;
  /** Undefined: it exchanges no chunks with devices over libp2p. */
  siteNode?: SiteNode | undefined;
  book: PeerBook;
  /** URLs of its own HTTP side, for the other gateways of the site; undefined before it listens. */
  ownUrls: () => string[] | undefined;
  peerGatewayClient: PeerGatewayClient;
  wanLimits: WanLimits;
  /** How many times longer than usual devices are waited for. */
  patience: number;
  now: () => number;
  log: Log;
}
