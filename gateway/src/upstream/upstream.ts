import type { ChunkStore } from '@sitecast/shared/content';
import type { MetadataFetcher } from '@sitecast/shared/trust';

/** An answer of the site API: its status, and the JSON it came with. */
export interface UpstreamAnswer {
  status: number;
  /** Undefined where the body isn't JSON. */
  json: unknown;
}

/** One place that a gateway gets everything from: the origin, or another gateway. Nothing it says is trusted. */
export interface Upstream {
  readonly url: string;
  /** Else it's another gateway, as far as the settings say. */
  readonly isOrigin: boolean;
  /** Below /metadata/. */
  readonly metadata: MetadataFetcher;
  /** Below /targets/. */
  readonly targets: MetadataFetcher;
  /** Below /chunks/. */
  readonly chunks: ChunkStore;
  /**
   * Asks for the timestamp, and lets the upstream wait with its answer until there's another one than `etag`.
   * @returns the ETag of what is there now, and whether it's another; undefined where the upstream gives none
   * @throws SITECAST_UPSTREAM_UNREACHABLE
   */
  waitForChange(
    etag: string | undefined,
    options: { waitS: number; signal: AbortSignal },
  ): Promise<{ etag: string | undefined; isChanged: boolean }>;
  /**
   * A request of the site API; with a body it's a POST, signed by the gateway.
   * @throws SITECAST_UPSTREAM_UNREACHABLE where no answer came
   */
  ask(path: string, body?: unknown): Promise<UpstreamAnswer>;
}
