import { type ChunkId, type ChunkStore, sameChunkId } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import type { HoldingsBoard, ImageHoldings } from './holdings.ts';
import type { Pacer } from '../../bounded/index.ts';
import { type Answer, type Ask, decodeAsk, MAX_POSITIONS, violation } from './wire.ts';

/** Requests of one peer that wait; an honest one never has more outstanding. */
export const MAX_WAITING_REQUESTS = 64;
/** Worked at together: while one is written, the next is read. */
const WORKERS = 2;
/** Images that one peer follows. */
export const MAX_FOLLOWED_IMAGES = 4;
const HELLO_MS = 10_000;
/** Without a message of the peer. */
const IDLE_MS = 10 * 60_000;
const ADMISSION_MS = 5_000;
/** How long an admission holds: as long as a revoked peer goes on being served at most. */
const READMIT_AFTER_MS = 30_000;
const READ_MS = 15_000;
/** What has come is told together: the more listen, the more of it, so that a site's talk doesn't grow with its square. */
const TELL_EVERY_MS = 50;
const TELL_EVERY_MS_PER_LISTENER = 20;

/**
 * Whether a peer may be served: it has a current assignment to this site and isn't revoked.
 * @param credential what it brought to show that, unverified: an assignment signed by the origin
 */
export type MayServe = (peer: string, credential: Uint8Array) => boolean | Promise<boolean>;

export interface ServingPorts {
  /** Gives only chunks that were checked: wrap it in `verifying` unless it checks by itself. */
  readonly store: ChunkStore;
  readonly board: HoldingsBoard;
  readonly mayServe: MayServe;
  /** True while nothing is to be handed out: the machine boots, or has better things to do. */
  readonly isBusy?: () => boolean;
  /** The upload's rate, for all peers together. */
  readonly pace?: Pacer;
  readonly onServed?: (peer: string, lengthBytes: number) => void;
}

interface Outlet {
  send(answer: Answer): Promise<void>;
  close(): void;
  abort(error: unknown): void;
  /** Called once, when the peer is admitted for the first time. @returns whether there's room for it */
  admitted(): boolean;
}

interface Request {
  readonly ask: Extract<Ask, { type: 'get' | 'has' }>;
  isCancelled: boolean;
}

/** How much of an image a peer was told. */
interface Followed {
  readonly image: ChunkId;
  holdings: ImageHoldings | undefined;
  told: number;
  wasFetching: boolean;
}

/** One stream of one asker. */
export class ServedPeer {
  readonly #id: string;
  readonly #ports: ServingPorts;
  readonly #outlet: Outlet;
  readonly #stop = new AbortController();
  readonly #waiting: Request[] = [];
  readonly #followed: Followed[] = [];
  #idle: NodeJS.Timeout;
  #stopListening: (() => void) | undefined;
  #credential: Uint8Array | undefined;
  #admittedMs = Number.NEGATIVE_INFINITY;
  #admitting: Promise<boolean> | undefined;
  #working = 0;
  #isTelling = false;

  constructor(id: string, ports: ServingPorts, outlet: Outlet) {
    this.#id = id;
    this.#ports = ports;
    this.#outlet = outlet;
    this.#idle = this.#endAfter(HELLO_MS);
  }

  /** @throws SITECAST_PEER_PROTOCOL */
  take(message: Buffer): void {
    const ask = decodeAsk(message);
    if ((ask.type === 'hello') === (this.#credential !== undefined))
      throw violation('a hello is first, and once');
    clearTimeout(this.#idle);
    this.#idle = this.#endAfter(IDLE_MS);
    switch (ask.type) {
      case 'hello':
        this.#credential = ask.credential;
        void this.#work();
        break;
      case 'get':
      case 'has':
        if (this.#waiting.length >= MAX_WAITING_REQUESTS) throw violation('too many requests');
        this.#waiting.push({ ask, isCancelled: false });
        void this.#work();
        break;
      case 'cancel':
        for (const request of this.#waiting)
          if (request.ask.request === ask.request) request.isCancelled = true;
        break;
      case 'follow':
        this.#follow(ask.image);
        break;
    }
  }

  end(error: Error): void {
    this.#outlet.abort(error);
  }

  /** The stream has ended. */
  ended(): void {
    clearTimeout(this.#idle);
    this.#stopListening?.();
    this.#stop.abort(new Error('the stream has ended'));
    this.#waiting.length = 0;
  }

  #endAfter(silenceMs: number): NodeJS.Timeout {
    return setTimeout(() => this.end(new Error(`no message for ${silenceMs} ms`)), silenceMs).unref();
  }

  async #work(): Promise<void> {
    if (this.#working >= WORKERS) return;
    this.#working += 1;
    try {
      if (!(await this.#isAdmitted())) return;
      this.#wakeTelling();
      for (let request = this.#waiting.shift(); request; request = this.#waiting.shift()) {
        if (!(await this.#isAdmitted())) return;
        await this.#outlet.send(await this.#answer(request));
      }
    } catch (error) {
      this.#outlet.abort(error);
    } finally {
      this.#working -= 1;
    }
  }

  async #answer({ ask, isCancelled }: Request): Promise<Answer> {
    const { request, id } = ask;
    const { store, isBusy, pace, onServed } = this.#ports;
    if (isCancelled) return { type: 'missing', request };
    if (isBusy?.()) return { type: 'busy', request };
    const signal = AbortSignal.timeout(READ_MS);
    try {
      if (ask.type === 'has')
        return { type: (await store.has(id, { signal })) ? 'present' : 'missing', request };
      const { form, bytes } = (await store.get(id, { signal })).ready();
      await pace?.take(bytes.length, this.#stop.signal);
      onServed?.(this.#id, bytes.length);
      return { type: form, request, bytes };
    } catch (error) {
      this.#stop.signal.throwIfAborted();
      const isAbsent = error instanceof SitecastError && error.code === 'SITECAST_CHUNK_NOT_FOUND';
      // A store that can't read now, or holds something damaged, has nothing to hand out.
      return { type: isAbsent ? 'missing' : 'busy', request };
    }
  }

  async #isAdmitted(): Promise<boolean> {
    if (performance.now() - this.#admittedMs < READMIT_AFTER_MS) return true;
    this.#admitting ??= this.#ask().finally(() => {
      this.#admitting = undefined;
    });
    return this.#admitting;
  }

  async #ask(): Promise<boolean> {
    const { mayServe } = this.#ports;
    const timeout = new Promise<false>(resolve => setTimeout(() => resolve(false), ADMISSION_MS).unref());
    const isAdmitted = await Promise.race([
      mayServe(this.#id, this.#credential ?? new Uint8Array(0)),
      timeout,
    ]);
    if (isAdmitted) {
      const isFirst = this.#admittedMs === Number.NEGATIVE_INFINITY;
      if (isFirst && !this.#outlet.admitted()) throw new Error('too many streams');
      this.#admittedMs = performance.now();
      return true;
    }
    this.#waiting.length = 0;
    await this.#outlet.send({ type: 'refused' });
    this.#outlet.close();
    return false;
  }

  #follow(image: ChunkId): void {
    if (this.#followed.some(followed => sameChunkId(followed.image, image))) return;
    if (this.#followed.length >= MAX_FOLLOWED_IMAGES) throw violation('too many images');
    this.#followed.push({ image, holdings: undefined, told: 0, wasFetching: false });
    this.#stopListening ??= this.#ports.board.listen(() => this.#wakeTelling());
    this.#wakeTelling();
  }

  /** One teller at a time, which waits for its messages to be written: a slow reader hears later, not more. */
  #wakeTelling(): void {
    if (this.#isTelling || this.#admittedMs === Number.NEGATIVE_INFINITY || this.#stop.signal.aborted) return;
    if (!this.#followed.some(followed => this.#hasNews(followed))) return;
    this.#isTelling = true;
    const everyMs = Math.max(TELL_EVERY_MS, TELL_EVERY_MS_PER_LISTENER * this.#ports.board.listeners);
    setTimeout(() => void this.#tell(), everyMs);
  }

  #hasNews(followed: Followed): boolean {
    const holdings = this.#ports.board.get(followed.image);
    if (!holdings) return false;
    return (
      holdings !== followed.holdings ||
      holdings.bits.size > followed.told ||
      holdings.isFetching !== followed.wasFetching
    );
  }

  async #tell(): Promise<void> {
    try {
      for (const followed of this.#followed) await this.#tellOf(followed);
    } catch (error) {
      this.#outlet.abort(error);
    } finally {
      this.#isTelling = false;
      this.#wakeTelling();
    }
  }

  async #tellOf(followed: Followed): Promise<void> {
    const holdings = this.#ports.board.get(followed.image);
    if (!holdings || this.#stop.signal.aborted) return;
    const { image } = followed;
    if (followed.holdings !== holdings) {
      followed.holdings = holdings;
      followed.told = holdings.bits.size;
      followed.wasFetching = holdings.isFetching;
      const { isFetching } = holdings;
      // One at least: it says that the peer has, or fetches, this image at all.
      const pieces = [...holdings.bits.pieces()];
      for (const piece of pieces.length > 0 ? pieces : [{ first: 0, bits: new Uint8Array(0) }])
        await this.#outlet.send({ type: 'bitmap', image, isFetching, ...piece });
      return;
    }
    while (this.#hasNews(followed)) {
      const positions = holdings.addedAfter(followed.told, MAX_POSITIONS);
      followed.told += positions.length;
      followed.wasFetching = holdings.isFetching;
      await this.#outlet.send({ type: 'positions', image, isFetching: holdings.isFetching, positions });
    }
  }
}
