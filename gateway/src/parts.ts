import type { JoinToken } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import type { MetadataStore } from '@sitecast/shared/trust';
import type { FrameFiles } from './chunks/frame-files.ts';
import type { News } from './gossip/news.ts';
import type { Metrics } from './http/metrics.ts';
import type { Log } from './log.ts';
import type { MirrorStore } from './mirror/mirror-store.ts';
import type { GatewaySettings } from './settings.ts';
import type { Records } from './storage/records.ts';
import type { Upstream } from './upstream/upstream.ts';

/** What a gateway is made of: the ports, and what it was told. */
export interface GatewayParts {
  settings: Pick<GatewaySettings, 'cacheBytes' | 'memoryBytes' | 'reserve' | 'poll' | 'site'>;
  identity: Identity;
  token: JoinToken | undefined;
  upstreams: readonly Upstream[];
  trustStore: MetadataStore;
  mirrorStore: MirrorStore;
  frames: FrameFiles;
  /** A room's own part of the database. */
  records: (room: string) => Records;
  metrics: Metrics;
  /** Undefined: this gateway isn't in the fleet's network. */
  news?: News | undefined;
  now: () => number;
  log: Log;
}
