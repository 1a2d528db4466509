import { type Chunk, type ChunkIndex, isRefusal, longestFrameBytes } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { NextFetch } from './next-fetch.ts';
import type { Picker } from './picker.ts';
import { MAX_HEDGES } from './slots.ts';
import type { Source } from './source.ts';

/**
 * A request to a peer is hedged (another source is asked as well) when it has taken this many times the typical time, and at least this
 * long.
 */
const HEDGE_TIMES = 4;
const MIN_HEDGE_MS = 750;
/** How often waiting requests are checked. */
const TICK_MS = 100;
const DEFAULT_STALL_MS = 60_000;

export interface FetchOptions {
  /** How many chunks are in memory at a time, including those that are being delivered. */
  readonly concurrency: number;
  readonly signal: AbortSignal;
  /** Called with each verified chunk. The chunk's memory is reused when this has resolved. */
  readonly deliver: (at: number, plain: Uint8Array) => Promise<void> | void;
  /** Gives up when no chunk has arrived for this long. */
  readonly stallMs?: number;
  /** Gives up when a gateway has refused a chunk that no peer holds for this long. Default: waits for a peer until `stallMs`. */
  readonly refusedMs?: number | undefined;
}

interface RunPorts {
  readonly index: ChunkIndex;
  readonly picker: Picker;
  readonly gateway: () => Source | undefined;
  readonly peers: ReadonlyMap<string, Source>;
  readonly now: () => number;
  readonly every: (periodMs: number, act: () => void) => () => void;
  readonly onMisbehaviour: (source: Source, error: SitecastError) => void;
  readonly onGone: (source: Source) => void;
  readonly onTaken: (source: Source, lengthBytes: number) => void;
}

interface Attempt {
  readonly source: Source;
  readonly startMs: number;
  readonly stop: AbortController;
}

/** A chunk that is being fetched: one attempt, or two when the first is slow. */
interface Flight {
  readonly at: number;
  readonly attempts: Attempt[];
  /** The chunk belongs to the share of another machine, or a peer holds it. */
  readonly isUnowned: boolean;
  isHedged: boolean;
  isDelivering: boolean;
}

/** Fetches all chunks that a picker wants. It owns all of its state: every event ends in `wake`. */
export class FetchRun {
  readonly result: Promise<void>;
  readonly #ports: RunPorts;
  readonly #options: FetchOptions;
  readonly #next: NextFetch;
  readonly #flights = new Map<number, Flight>();
  /** How many flights are for chunks of other machines' shares, or that peers hold. */
  #unowned = 0;
  readonly #endTicks: () => void;
  readonly #onAbort = (): void => this.#end(this.#options.signal.reason);
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #progressMs: number;
  #hedges = 0;
  /** Chunks that the gateway has refused and no peer holds: since when, and the gateway's error. */
  readonly #refused = new Map<number, { sinceMs: number; error: SitecastError }>();
  /** Reused memory: as many chunks as were fetched at the same time. */
  readonly #memory: Buffer[] = [];
  readonly #deliveries = new Set<Promise<void>>();
  #lastError: unknown;
  #isEnded = false;

  constructor(ports: RunPorts, options: FetchOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#next = new NextFetch(ports);
    this.#progressMs = ports.now();
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#endTicks = ports.every(TICK_MS, () => this.#tick());
    options.signal.addEventListener('abort', this.#onAbort, { once: true });
    if (options.signal.aborted) this.#onAbort();
    else this.wake();
  }

  /** Starts all requests that can be started. Called whenever something has changed. */
  wake(): void {
    const { picker } = this.#ports;
    if (this.#isEnded) return;
    if (picker.wanted === 0 && this.#flights.size === 0) {
      this.#end(undefined);
      return;
    }
    while (this.#flights.size < this.#options.concurrency && this.#startNext());
  }

  #startNext(): boolean {
    const chosen = this.#next.choose(this.#ports.now(), this.#flights.size - this.#unowned);
    if (!chosen) return false;
    const { at, source, isUnowned } = chosen;
    this.#ports.picker.takeOut(at);
    const flight = { at, attempts: [], isUnowned, isHedged: false, isDelivering: false };
    this.#flights.set(at, flight);
    if (isUnowned) this.#unowned += 1;
    void this.#attempt(flight, source);
    return true;
  }

  async #attempt(flight: Flight, source: Source): Promise<void> {
    const { index, now } = this.#ports;
    const attempt = { source, startMs: now(), stop: new AbortController() };
    const into = this.#memory.pop() ?? Buffer.allocUnsafeSlow(longestFrameBytes(index.sizes.maxBytes));
    flight.attempts.push(attempt);
    try {
      const chunk = await source.get(index.idAt(flight.at), {
        signal: attempt.stop.signal,
        lengthBytes: index.lengthOf(flight.at),
        into,
        onSent: () => source.answered(now() - attempt.startMs),
      });
      source.gave(now() - attempt.startMs);
      if (!flight.isDelivering && !this.#isEnded) await this.#deliver(flight, attempt, chunk);
    } catch (error) {
      this.#failed(flight, attempt, error);
    } finally {
      // No request writes to it any more, and its content is delivered.
      this.#memory.push(into);
      this.wake();
    }
  }

  async #deliver(flight: Flight, winner: Attempt, chunk: Chunk): Promise<void> {
    flight.isDelivering = true;
    for (const other of flight.attempts) {
      if (other === winner) continue;
      other.stop.abort(new Error('another was faster'));
      // A peer that was asked first and overtaken isn't asked for a while, and is given up if that goes on. A gateway isn't: its thin link
      // is the reason why it is slow.
      const isGateway = other.source === this.#ports.gateway();
      if (!isGateway && other.startMs < winner.startMs) this.#noteFailure(other.source);
    }
    const delivery = Promise.resolve(flight.at).then(at => this.#options.deliver(at, chunk.plain()));
    this.#deliveries.add(delivery);
    try {
      await delivery;
    } catch (error) {
      this.#end(error);
      return;
    } finally {
      this.#deliveries.delete(delivery);
    }
    this.#ports.onTaken(winner.source, this.#ports.index.lengthOf(flight.at));
    this.#progressMs = this.#ports.now();
    this.#refused.delete(flight.at);
    this.#ports.picker.done(flight.at, this.#progressMs);
    this.#forget(flight);
  }

  #failed(flight: Flight, attempt: Attempt, error: unknown): void {
    const { picker, onMisbehaviour } = this.#ports;
    const { source } = attempt;
    flight.attempts.splice(flight.attempts.indexOf(attempt), 1);
    if (this.#isEnded || flight.isDelivering) return;
    if (!(error instanceof SitecastError)) {
      this.#end(error);
      return;
    }
    this.#lastError = error;
    const isGateway = source === this.#ports.gateway();
    if (isGateway && isRefusal(error) && !this.#refused.has(flight.at))
      this.#refused.set(flight.at, { sinceMs: this.#ports.now(), error });
    if (error.kind === 'untrusted' || error.kind === 'tooLarge') onMisbehaviour(source, error);
    else if (error.code === 'SITECAST_CHUNK_NOT_FOUND' && !isGateway) picker.lost(source.name, flight.at);
    else this.#noteFailure(source);
    if (flight.attempts.length > 0) {
      // The remaining attempt may be the one that hangs, so another one may be started.
      this.#endHedge(flight);
      return;
    }
    this.#forget(flight);
    picker.putBack(flight.at);
  }

  #endHedge(flight: Flight): void {
    if (flight.isHedged) this.#hedges -= 1;
    flight.isHedged = false;
  }

  #noteFailure(source: Source): void {
    const { now, onGone, gateway } = this.#ports;
    source.failed(now());
    if (source.isGone && source !== gateway()) onGone(source);
  }

  #forget(flight: Flight): void {
    this.#endHedge(flight);
    if (this.#flights.delete(flight.at) && flight.isUnowned) this.#unowned -= 1;
  }

  #tick(): void {
    const { picker, now } = this.#ports;
    const { stallMs = DEFAULT_STALL_MS } = this.#options;
    const nowMs = now();
    if (
      nowMs - this.#progressMs > stallMs &&
      ![...this.#flights.values()].some(flight => flight.isDelivering)
    ) {
      this.#end(this.#stalled(stallMs));
      return;
    }
    const refusal = this.#refusedFor(nowMs);
    if (refusal) {
      this.#end(refusal);
      return;
    }
    picker.reshare(nowMs);
    this.#hedgeLate(nowMs);
    this.wake();
  }

  /** The gateway's error about a chunk that no source has. */
  #refusedFor(nowMs: number): SitecastError | undefined {
    const { refusedMs } = this.#options;
    if (refusedMs === undefined) return undefined;
    for (const [at, { sinceMs, error }] of this.#refused) {
      if (this.#ports.picker.holdersOf(at).length > 0) this.#refused.delete(at);
      else if (nowMs - sinceMs > refusedMs) return error;
    }
    return undefined;
  }

  #hedgeLate(nowMs: number): void {
    if (this.#hedges >= MAX_HEDGES || this.#flights.size === 0) return;
    const limitMs = Math.max(MIN_HEDGE_MS, HEDGE_TIMES * (this.#typicalMs() ?? 0));
    for (const flight of this.#flights.values()) {
      const [first] = flight.attempts;
      if (first && nowMs - first.startMs >= limitMs) this.#hedge(flight, first, nowMs);
    }
  }

  /** Asks a second source for a chunk that takes too long: another holder, or a gateway where no other peer holds it. */
  #hedge(flight: Flight, first: Attempt, nowMs: number): void {
    const gateway = this.#ports.gateway();
    if (flight.isHedged || flight.isDelivering || this.#hedges >= MAX_HEDGES) return;
    // If a gateway is slow because of its thin link, no other gateway is asked. A peer that has the chunk by now is.
    const isFromGateway = first.source === gateway;
    const holders = this.#ports.picker.holdersOf(flight.at).filter(id => id !== first.source.name);
    const other = this.#next.leastBusy(holders, nowMs);
    const second =
      other ?? (isFromGateway || holders.length > 0 || !gateway?.hasRoom(nowMs) ? undefined : gateway);
    if (!second) return;
    flight.isHedged = true;
    this.#hedges += 1;
    void this.#attempt(flight, second);
  }

  /** The typical time of peers' requests. */
  #typicalMs(): number | undefined {
    const all = [...this.#ports.peers.values()]
      .flatMap(({ typicalMs }) => typicalMs ?? [])
      .sort((a, b) => a - b);
    return all[Math.floor(all.length / 2)];
  }

  #stalled(stallMs: number): SitecastError {
    const { picker } = this.#ports;
    return new SitecastError(
      'unreachable',
      'SITECAST_STORE_UNREACHABLE',
      `no chunk has come for ${Math.round(stallMs / 1000)} s; ${picker.wanted} are missing`,
      { data: { missing: picker.wanted }, cause: this.#lastError },
    );
  }

  /** @param reason undefined: all chunks are here */
  #end(reason: unknown): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#endTicks();
    this.#options.signal.removeEventListener('abort', this.#onAbort);
    for (const { attempts, at } of this.#flights.values()) {
      for (const { stop } of attempts) stop.abort(reason ?? new Error('all is here'));
      this.#ports.picker.putBack(at);
    }
    // When this has settled, the caller may close what chunks are delivered to.
    void Promise.allSettled(this.#deliveries).then(() =>
      reason === undefined ? this.#resolve() : this.#reject(reason),
    );
  }
}
