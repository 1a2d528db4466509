import { type ChunkId, type ChunkStore, isNotFound, sameChunkId } from '../../content/index.ts';
import type { HaveMap, ImageHoldings } from './holdings.ts';
import type { Pacer } from '../../bounded/index.ts';
import { type MayServe, RenewedAdmission } from '../../chunk-http/index.ts';
import { type Answer, type Ask, decodeAsk, MAX_HAVE_CHUNKS, violation } from './wire.ts';

/** How many requests of one peer may wait. An honest peer never has more open. */
export const MAX_WAITING_REQUESTS = 64;
/** How many requests are handled at a time: while one is written, the next is read. */
const WORKERS = 2;
/** Images that one peer subscribes to. */
export const MAX_SUBSCRIBED_IMAGES = 4;
const HELLO_MS = 10_000;
/** How long a peer may be silent. */
const IDLE_MS = 10 * 60_000;
const READ_MS = 15_000;
/**
 * New chunks are announced in batches. With more listeners the batches are larger, so that a site's traffic doesn't grow with the square
 * of its size.
 */
const TELL_EVERY_MS = 50;
const TELL_EVERY_MS_PER_LISTENER = 20;

export interface ServingPorts {
  /** Must return only verified chunks: wrap it in `verifying` unless it verifies by itself. */
  readonly store: ChunkStore;
  readonly haveMap: HaveMap;
  readonly mayServe: MayServe;
  /** True while no chunks should be served, for example because the machine boots. */
  readonly isBusy?: () => boolean;
  /** Limits the upload of all peers together. */
  readonly pace?: Pacer;
  readonly onServed?: (peer: string, lengthBytes: number) => void;
}

interface Outlet {
  send(answer: Answer): Promise<void>;
  close(): void;
  abort(error: unknown): void;
  /** Called once, when the peer is admitted for the first time. @returns whether there is a place for it */
  admitted(): boolean;
}

interface Request {
  readonly ask: Extract<Ask, { type: 'get' | 'has' }>;
  isCancelled: boolean;
}

/** What a peer has subscribed to, and how much of it was announced to the peer. */
interface Subscription {
  readonly image: ChunkId;
  holdings: ImageHoldings | undefined;
  announced: number;
  wasFetching: boolean;
}

/** One stream of one requester. */
export class ServedPeer {
  readonly #id: string;
  readonly #ports: ServingPorts;
  readonly #outlet: Outlet;
  readonly #stop = new AbortController();
  readonly #waiting: Request[] = [];
  readonly #subscribed: Subscription[] = [];
  #idle: NodeJS.Timeout;
  #stopListening: (() => void) | undefined;
  #credential: Uint8Array | undefined;
  readonly #admission: RenewedAdmission;
  #isAdmittedOnce = false;
  #refusing: Promise<false> | undefined;
  #working = 0;
  #isTelling = false;

  constructor(id: string, ports: ServingPorts, outlet: Outlet) {
    this.#id = id;
    this.#ports = ports;
    this.#outlet = outlet;
    this.#admission = new RenewedAdmission(() => ports.mayServe(id, this.#credential ?? new Uint8Array(0)));
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
      case 'subscribe':
        this.#subscribe(ask.image);
        break;
    }
  }

  end(error: Error): void {
    this.#outlet.abort(error);
  }

  /** Called when the stream has ended. */
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
      await pace?.take(bytes.length, this.#stop.signal, this.#id);
      onServed?.(this.#id, bytes.length);
      return { type: form, request, bytes };
    } catch (error) {
      this.#stop.signal.throwIfAborted();
      const isAbsent = isNotFound(error);
      // If the store can't read now, or the chunk is damaged, it isn't served.
      return { type: isAbsent ? 'missing' : 'busy', request };
    }
  }

  async #isAdmitted(): Promise<boolean> {
    if (!(await this.#admission.isAdmitted())) {
      this.#refusing ??= this.#refuse();
      return this.#refusing;
    }
    if (!this.#isAdmittedOnce && !this.#outlet.admitted()) throw new Error('too many streams');
    this.#isAdmittedOnce = true;
    return true;
  }

  async #refuse(): Promise<false> {
    this.#waiting.length = 0;
    await this.#outlet.send({ type: 'refused' });
    this.#outlet.close();
    return false;
  }

  #subscribe(image: ChunkId): void {
    if (this.#subscribed.some(subscribed => sameChunkId(subscribed.image, image))) return;
    if (this.#subscribed.length >= MAX_SUBSCRIBED_IMAGES) throw violation('too many images');
    this.#subscribed.push({ image, holdings: undefined, announced: 0, wasFetching: false });
    this.#stopListening ??= this.#ports.haveMap.listen(() => this.#wakeTelling());
    this.#wakeTelling();
  }

  /** Sends announcements one after the other, each after the one before was written: a slow reader gets them later and in fewer messages. */
  #wakeTelling(): void {
    if (this.#isTelling || !this.#isAdmittedOnce || this.#stop.signal.aborted) return;
    if (!this.#subscribed.some(subscribed => this.#hasNews(subscribed))) return;
    this.#isTelling = true;
    // Peers that fetch the same image are told soon: until then, each machine takes all shares as its own.
    const isFirst = this.#subscribed.some(({ holdings }) => holdings === undefined);
    const perListenerMs = TELL_EVERY_MS_PER_LISTENER * this.#ports.haveMap.listeners;
    setTimeout(() => void this.#tell(), isFirst ? TELL_EVERY_MS : Math.max(TELL_EVERY_MS, perListenerMs));
  }

  #hasNews(subscribed: Subscription): boolean {
    const holdings = this.#ports.haveMap.get(subscribed.image);
    if (!holdings) return false;
    return (
      holdings !== subscribed.holdings ||
      holdings.bits.size > subscribed.announced ||
      holdings.isFetching !== subscribed.wasFetching
    );
  }

  async #tell(): Promise<void> {
    try {
      for (const subscribed of this.#subscribed) await this.#tellOf(subscribed);
    } catch (error) {
      this.#outlet.abort(error);
    } finally {
      this.#isTelling = false;
      this.#wakeTelling();
    }
  }

  async #tellOf(subscribed: Subscription): Promise<void> {
    const holdings = this.#ports.haveMap.get(subscribed.image);
    if (!holdings || this.#stop.signal.aborted) return;
    const { image } = subscribed;
    if (subscribed.holdings !== holdings) {
      subscribed.holdings = holdings;
      subscribed.announced = holdings.bits.size;
      subscribed.wasFetching = holdings.isFetching;
      const { isFetching } = holdings;
      // At least one piece, even an empty one: it says that this machine has or fetches the image at all.
      const pieces = [...holdings.bits.pieces()];
      for (const piece of pieces.length > 0 ? pieces : [{ first: 0, bits: new Uint8Array(0) }])
        await this.#outlet.send({ type: 'bitfield', image, isFetching, ...piece });
      return;
    }
    while (this.#hasNews(subscribed)) {
      const added = holdings.addedAfter(subscribed.announced, MAX_HAVE_CHUNKS);
      subscribed.announced += added.length;
      subscribed.wasFetching = holdings.isFetching;
      await this.#outlet.send({ type: 'have', image, isFetching: holdings.isFetching, added });
    }
  }
}
