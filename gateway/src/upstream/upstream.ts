import type { ChunkStore } from '@sitecast/shared/content';
import type { MetadataFetcher } from '@sitecast/shared/trust';

/** An answer of the site API: its status, and the JSON it came with. */
export interface UpstreamAnswer {
  status: number;
  /** Undefined where the body isn't JSON. */
  json: unknown;
}

/** A server that a gateway gets everything from: the origin, or another gateway. Nothing it sends is trusted unverified. */
export interface Upstream {
  readonly url: string;
  /** Otherwise it is another gateway, according to the settings. */
  readonly isOrigin: boolean;
  /** Below /metadata/. */
  readonly metadata: MetadataFetcher;
  /** Below /targets/. */
  readonly targets: MetadataFetcher;
  /** Below /chunks/. */
  readonly chunks: ChunkStore;
  /**
   * Requests the timestamp; the upstream may delay its answer until the timestamp differs from `etag`.
   * @returns the current ETag, and whether it differs; undefined where the upstream gives none
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
  /**
   * A request of the site API that another gateway has made.
   * @throws SITECAST_UPSTREAM_UNREACHABLE where no answer came
   */
  forward(request: ForwardedRequest): Promise<ForwardedAnswer>;
}

/** A request of the site API on its way through a neighbour. */
export interface ForwardedRequest {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | undefined;
}

export interface ForwardedAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** Picks those of the headers that exist. */
export function pickHeaders(
  names: readonly string[],
  valueOf: (name: string) => string | undefined,
): Record<string, string> {
  return Object.fromEntries(
    names.flatMap(name => {
      const value = valueOf(name);
      return value === undefined ? [] : [[name, value]];
    }),
  );
}
