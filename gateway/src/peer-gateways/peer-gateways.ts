import type { ChunkStore } from '@sitecast/shared/content';
import { sleep } from '@sitecast/shared/async';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';
import type { PeerBook } from './peer-book.ts';
import type { Log } from '@sitecast/shared/log';

/** How many other gateways of the site are used: the newest. */
export const MAX_PEER_GATEWAYS = 15;
/** How often each is asked whether it lives. One that doesn't answer is asked less often. */
const PROBE_EVERY_MS = 2000;
const PROBE_ABSENT_EVERY_MS = 3000;
/** How often it checks which of them are due. */
const LOOK_EVERY_MS = 500;
/** After this many unanswered requests in a row, a peer gateway counts as gone. */
const FAILURES_TO_BE_GONE = 2;
/** How long a peer gateway that did not send a chunk is not asked for chunks. */
const REST_MS = 15_000;

/** Requests to another gateway. Everything that it returns is verified. */
export interface PeerGatewayClient {
  /** The gateway that answers at a URL; undefined where none does. */
  ask(url: string, signal: AbortSignal): Promise<{ id: string; site?: string | undefined } | undefined>;
  /** Its chunks, verified: for `fetched` it asks the origin if needed; `held` are only those that it has. */
  open(url: string): { fetched: ChunkStore; held: ChunkStore; close(): void };
}

/** Another gateway of the same site that answers. */
export interface PeerGateway {
  readonly id: string;
  readonly url: string;
  readonly fetched: ChunkStore;
  readonly held: ChunkStore;
  /** Aborted when it is gone, so that its requests can go to other sources. */
  readonly gone: AbortSignal;
}

interface Candidate {
  urls: string[];
  failures: number;
  probedMs: number;
  isProbing: boolean;
  /** Whether it should be asked before its time. */
  isDue: boolean;
  open: { peerGateway: PeerGateway; end: () => void } | undefined;
}

interface PeerGatewaysDeps {
  ownId: string;
  /** This gateway's site; undefined before it is assigned to one. */
  site: () => string | undefined;
  book: Pick<PeerBook, 'all'>;
  /** URLs of the settings. */
  configured: readonly string[];
  isRevoked: (id: string) => boolean;
  client: PeerGatewayClient;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
  log: Log;
}

/**
 * The site's other gateways that answer, out of those that the origin or the settings name. Each is asked over HTTP for its id, again and
 * again, so a wrong or old address doesn't count.
 */
export class PeerGateways {
  readonly #deps: PeerGatewaysDeps;
  readonly #now: () => number;
  /** By id; those of the settings, by URL. */
  readonly #candidates = new Map<string, Candidate>();
  /** By id: those that did not send a chunk lately. */
  readonly #resting: LruCache<string, true>;

  constructor(deps: PeerGatewaysDeps) {
    this.#deps = deps;
    this.#now = deps.now ?? (() => performance.now());
    this.#resting = lruCache({ max: MAX_PEER_GATEWAYS, ttl: REST_MS, now: this.#now });
  }

  /** Gateways that answer and can be asked for chunks. */
  get able(): PeerGateway[] {
    return this.#live.filter(({ id }) => !this.#resting.has(id));
  }

  /** How many answer. */
  get liveCount(): number {
    return this.#live.length;
  }

  /** All that are known, whether they answer or not. */
  get knownIds(): string[] {
    return [...new Set([...this.#candidates].map(([key, { open }]) => open?.peerGateway.id ?? key))];
  }

  /** Called when it did not send a chunk: it gets no requests for chunks for a while, and is soon asked whether it lives. */
  rest(id: string): void {
    for (const candidate of this.#candidates.values()) {
      if (candidate.open?.peerGateway.id !== id) continue;
      this.#resting.set(id, true);
      candidate.isDue = true;
    }
  }

  /**
   * Called when a gateway has requested this one's id, which shows that it lives.
   * @returns whether it is known
   */
  noteAlive(id: string): boolean {
    const all = [...this.#candidates.values()];
    if (all.some(({ open }) => open?.peerGateway.id === id)) return true;
    const { configured } = this.#deps;
    for (const [key, candidate] of this.#candidates) {
      // It may be one of the settings, whose ids aren't known until they answer.
      if (!candidate.open && (key === id || configured.includes(key))) candidate.isDue = true;
    }
    return this.#candidates.has(id);
  }

  /** Runs until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#follow();
      for (const [key, candidate] of this.#candidates) {
        const everyMs = candidate.open ? PROBE_EVERY_MS : PROBE_ABSENT_EVERY_MS;
        const isDue = candidate.isDue || this.#now() - candidate.probedMs >= everyMs;
        if (candidate.isProbing || !isDue) continue;
        candidate.isProbing = true;
        candidate.isDue = false;
        candidate.probedMs = this.#now();
        // Not awaited, so that one that hangs doesn't delay the others.
        void this.#probe(key, candidate, signal).finally(() => {
          candidate.isProbing = false;
        });
      }
      await sleep(LOOK_EVERY_MS, signal);
    }
    for (const candidate of this.#candidates.values()) this.#end(candidate);
  }

  get #live(): PeerGateway[] {
    const byId = new Map<string, PeerGateway>();
    for (const { open } of this.#candidates.values()) {
      if (open && !this.#deps.isRevoked(open.peerGateway.id)) byId.set(open.peerGateway.id, open.peerGateway);
    }
    return [...byId.values()];
  }

  /** Updates the candidates from the book and the settings. */
  #follow(): void {
    const { book, configured, ownId, site, isRevoked } = this.#deps;
    const own = site();
    const wanted = new Map(configured.map(url => [url, [url]]));
    for (const { id, site: itsSite, urls } of book.all) {
      if (id !== ownId && own !== undefined && itsSite === own && urls.length > 0 && !isRevoked(id))
        wanted.set(id, urls);
    }
    const kept = new Map([...wanted].slice(-MAX_PEER_GATEWAYS));
    for (const [key, candidate] of this.#candidates) {
      if (kept.has(key)) continue;
      this.#end(candidate);
      this.#candidates.delete(key);
    }
    for (const [key, urls] of kept) {
      const found = this.#candidates.get(key);
      if (found) found.urls = urls;
      else this.#candidates.set(key, newCandidate(urls));
    }
  }

  async #probe(key: string, candidate: Candidate, signal: AbortSignal): Promise<void> {
    const { open } = candidate;
    const urls = open ? [open.peerGateway.url] : candidate.urls;
    const answers = await Promise.all(urls.map(url => this.#isIt(key, candidate, url, signal)));
    const at = answers.findIndex(answer => answer !== undefined);
    const id = answers[at];
    const url = urls[at];
    if (id !== undefined && url !== undefined) {
      candidate.failures = 0;
      if (!candidate.open && !signal.aborted) this.#open(candidate, id, url);
      return;
    }
    candidate.failures += 1;
    if (open && candidate.failures >= FAILURES_TO_BE_GONE) {
      this.#deps.log.warn(
        { gateway: open.peerGateway.id, url: open.peerGateway.url },
        'a gateway of this site is gone',
      );
      this.#end(candidate);
    }
  }

  /** @returns the id of the gateway that answers at the URL, if it is the expected one */
  async #isIt(
    key: string,
    { open }: Candidate,
    url: string,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const { client, ownId, site, configured } = this.#deps;
    // A signal of its own for each: many requests run at the same time.
    const answer = await client.ask(url, AbortSignal.any([signal]));
    if (!answer || answer.id === ownId) return undefined;
    if (answer.site === undefined || answer.site !== site()) return undefined;
    const wanted = open?.peerGateway.id ?? (configured.includes(key) ? undefined : key);
    return wanted === undefined || answer.id === wanted ? answer.id : undefined;
  }

  #open(candidate: Candidate, id: string, url: string): void {
    const gone = new AbortController();
    const stores = this.#deps.client.open(url);
    const { fetched, held } = stores;
    this.#resting.delete(id);
    candidate.open = {
      peerGateway: { id, url, fetched, held, gone: gone.signal },
      end: () => {
        gone.abort(new Error('this gateway is gone'));
        stores.close();
      },
    };
    this.#deps.log.info({ gateway: id, url }, 'another gateway of this site is there');
  }

  #end(candidate: Candidate): void {
    candidate.open?.end();
    candidate.open = undefined;
  }
}

function newCandidate(urls: string[]): Candidate {
  return {
    urls,
    failures: 0,
    probedMs: Number.NEGATIVE_INFINITY,
    isProbing: false,
    isDue: true,
    open: undefined,
  };
}
