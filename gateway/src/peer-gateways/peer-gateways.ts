import type { ChunkStore } from '@sitecast/shared/content';
import { sleep } from '@sitecast/shared/async';
import type { PeerBook } from './peer-book.ts';
import type { Log } from '@sitecast/shared/log';

/** Other gateways of the site that take part; those heard of last. */
export const MAX_PEER_GATEWAYS = 15;
/** How often each is asked whether it lives; one that's away less often. */
const PROBE_EVERY_MS = 2000;
const PROBE_ABSENT_EVERY_MS = 3000;
/** How often it's looked who is due. */
const LOOK_EVERY_MS = 500;
/** So many in a row without an answer, and it counts as gone. */
const FAILURES_TO_BE_GONE = 2;
/** One that didn't give a chunk that it should isn't asked for so long. */
const REST_MS = 15_000;

/** How another gateway is spoken to. Nothing that it gives is trusted. */
export interface PeerGatewayClient {
  /** Who answers there; undefined if nobody does who is a gateway. */
  ask(url: string, signal: AbortSignal): Promise<{ id: string; site?: string | undefined } | undefined>;
  /** Its chunks: `fetched` lets it fetch them from the origin, `held` are those that it has. Both verified. */
  open(url: string): { fetched: ChunkStore; held: ChunkStore; close(): void };
}

/** Another gateway of the same site, which answers. */
export interface PeerGateway {
  readonly id: string;
  readonly url: string;
  readonly fetched: ChunkStore;
  readonly held: ChunkStore;
  /** Aborted once it's gone: what it was asked is asked elsewhere. */
  readonly gone: AbortSignal;
}

interface Candidate {
  urls: string[];
  failures: number;
  probedMs: number;
  restsUntilMs: number;
  isProbing: boolean;
  /** It's asked before its time. */
  isDue: boolean;
  open: { peerGateway: PeerGateway; end: () => void } | undefined;
}

interface PeerGatewaysDeps {
  ownId: string;
  /** The own site; undefined before it's known. */
  site: () => string | undefined;
  book: Pick<PeerBook, 'all'>;
  /** URLs from the settings. */
  configured: readonly string[];
  isRevoked: (id: string) => boolean;
  client: PeerGatewayClient;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
  log: Log;
}

/**
 * The site's other gateways, as far as they answer: those that the origin names, and those that were configured. Each is asked
 * over HTTP now and then who it is, so that a wrong or old address counts as nobody.
 */
export class PeerGateways {
  readonly #deps: PeerGatewaysDeps;
  readonly #now: () => number;
  /** By id; those of the settings by URL until they have said who they are. */
  readonly #candidates = new Map<string, Candidate>();

  constructor(deps: PeerGatewaysDeps) {
    this.#deps = deps;
    this.#now = deps.now ?? (() => performance.now());
  }

  /** Those that answer and aren't resting. */
  get able(): PeerGateway[] {
    return this.#live
      .filter(({ restsUntilMs }) => restsUntilMs <= this.#now())
      .map(({ peerGateway }) => peerGateway);
  }

  /** How many answer. */
  get liveCount(): number {
    return this.#live.length;
  }

  /** All that were ever heard of here, whether they answer or not. */
  get knownIds(): string[] {
    return [...new Set([...this.#candidates].map(([key, { open }]) => open?.peerGateway.id ?? key))];
  }

  /** It didn't give what it should: it's left alone for a while, and looked at soon. */
  rest(id: string): void {
    for (const candidate of this.#candidates.values()) {
      if (candidate.open?.peerGateway.id !== id) continue;
      candidate.restsUntilMs = this.#now() + REST_MS;
      candidate.isDue = true;
    }
  }

  /**
   * It has asked who lives here, so it lives itself.
   * @returns whether it's one of those that are known
   */
  noteAlive(id: string): boolean {
    const all = [...this.#candidates.values()];
    if (all.some(({ open }) => open?.peerGateway.id === id)) return true;
    const { configured } = this.#deps;
    for (const [key, candidate] of this.#candidates) {
      // Which of those that were configured it is, it will say.
      if (!candidate.open && (key === id || configured.includes(key))) candidate.isDue = true;
    }
    return this.#candidates.has(id);
  }

  /** Returns when the signal comes. */
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
        // Not waited for: one that hangs must not hide that another lives.
        void this.#probe(key, candidate, signal).finally(() => {
          candidate.isProbing = false;
        });
      }
      await sleep(LOOK_EVERY_MS, signal);
    }
    for (const candidate of this.#candidates.values()) this.#end(candidate);
  }

  get #live(): { peerGateway: PeerGateway; restsUntilMs: number }[] {
    const byId = new Map<string, { peerGateway: PeerGateway; restsUntilMs: number }>();
    for (const { open, restsUntilMs } of this.#candidates.values()) {
      if (open && !this.#deps.isRevoked(open.peerGateway.id))
        byId.set(open.peerGateway.id, { peerGateway: open.peerGateway, restsUntilMs });
    }
    return [...byId.values()];
  }

  /** Takes over what the book and the settings say now. */
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

  /** @returns the id of who answers at the URL, if it's the one that is meant */
  async #isIt(
    key: string,
    { open }: Candidate,
    url: string,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const { client, ownId, site, configured } = this.#deps;
    // A signal each: many are asked at one time.
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
    candidate.restsUntilMs = 0;
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
    restsUntilMs: 0,
    isProbing: false,
    isDue: true,
    open: undefined,
  };
}
