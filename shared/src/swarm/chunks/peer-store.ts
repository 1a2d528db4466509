import type { Stream } from '@libp2p/interface';
import { peerIdFromString } from '@libp2p/peer-id';
import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  MAX_CHUNK_BYTES,
} from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';
import { SitecastError } from '../../errors.ts';
import type { SwarmNode } from '../node.ts';
import { ByteWindow } from '../../bounded/index.ts';
import { SubscribedImage, type HaveListener } from './subscribed-image.ts';
import { MessageStream } from './message-stream.ts';
import {
  type Answer,
  type Ask,
  CHUNK_PROTOCOL,
  decodeAnswer,
  encodeAsk,
  MAX_ANSWER_BYTES,
  violation,
} from './wire.ts';

// The peer sends this; it may be any machine on the LAN. The worst answers, and their bounds:
// - Wrong bytes. Each chunk is verified before it is passed on; after one wrong chunk the peer isn't used again.
// - Answers without a request, a chunk longer than the requested one, chunks that the image doesn't have: the same.
// - Nothing, or a byte a second. Each request has a deadline, which ends the stream.

/** Bound on the bytes that are requested of one peer and haven't arrived yet. */
export const MAX_OUTSTANDING_BYTES = 2 * 1024 * 1024;
/** How many requests may be open: as many as the other side lets wait. */
export const MAX_OUTSTANDING_REQUESTS = 64;
const DEFAULT_DEADLINE_MS = 20_000;
const OPEN_MS = 10_000;
/** How much longer a frame of incompressible bytes is than the bytes. */
const FRAME_SLACK_BYTES = 16 * 1024;

interface PeerStoreOptions {
  readonly node: SwarmNode;
  /** Id of the peer; the node is connected to it, or knows where it is. */
  readonly peer: string;
  /** This machine's signed assignment, shown to the peer. */
  readonly credential?: Uint8Array;
  /** How long one request may take, from sending it to its last byte. */
  readonly deadlineMs?: number;
  /** Called when the peer broke the protocol, or sent wrong bytes. It isn't asked again. */
  readonly onMisbehaviour?: (peer: string, error: SitecastError) => void;
}

interface Pending {
  readonly id: ChunkId;
  readonly maxPlainBytes: number;
  readonly timer: NodeJS.Timeout;
  settle(answer: Answer): void;
  fail(error: unknown): void;
}

type ConnectedStream = { readonly messages: MessageStream; readonly pending: Map<number, Pending> };

/** Chunks from one peer: many requests at a time over one stream. Each answer is verified. */
export class PeerStore implements ChunkStore {
  readonly name: string;
  readonly peer: string;
  readonly #options: PeerStoreOptions;
  readonly #window = new ByteWindow(MAX_OUTSTANDING_BYTES, MAX_OUTSTANDING_REQUESTS);
  readonly #subscribed = new Map<string, SubscribedImage>();
  #stream: Promise<ConnectedStream> | undefined;
  #violation: SitecastError | undefined;
  #isRefused = false;
  #isClosed = false;
  #lastRequest = 0;
  #onEnd: () => void = () => {};

  constructor(options: PeerStoreOptions) {
    this.#options = options;
    this.peer = options.peer;
    this.name = `peer ${options.peer}`;
  }

  /** Whether the peer misbehaves, doesn't serve this machine, or was closed: no further request can succeed. */
  get isUseless(): boolean {
    return this.isRefusing || this.#isClosed;
  }

  /** Whether the peer broke the protocol, or sent wrong bytes: it must never be asked again. */
  get isMisbehaving(): boolean {
    return this.#violation !== undefined;
  }

  /** Whether the peer misbehaves, or doesn't serve this machine. */
  get isRefusing(): boolean {
    return this.#violation !== undefined || this.#isRefused;
  }

  /** Calls the listener whenever the stream to the peer has ended. */
  onEnd(listener: () => void): void {
    this.#onEnd = listener;
  }

  /** @throws SITECAST_STORE_UNREACHABLE (`data.why`), SITECAST_PEER_PROTOCOL */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    const answer = await this.#exchange('has', id, { signal, maxPlainBytes: 0 });
    return answer.type === 'present';
  }

  /**
   * The chunk, verified.
   * @throws SITECAST_CHUNK_NOT_FOUND, SITECAST_CHUNK_MISMATCH, SITECAST_PEER_PROTOCOL, SITECAST_STORE_UNREACHABLE
   */
  async get(id: ChunkId, { signal, lengthBytes }: ChunkRequest = {}): Promise<Chunk> {
    const maxPlainBytes = lengthBytes ?? MAX_CHUNK_BYTES;
    const answer = await this.#exchange('get', id, { signal, maxPlainBytes });
    if (answer.type !== 'frame' && answer.type !== 'plain') throw chunkNotFound(id, this);
    const chunk =
      answer.type === 'plain' ? Chunk.fromPlain(id, answer.bytes) : Chunk.fromFrame(id, answer.bytes);
    try {
      return chunk.verify(lengthBytes);
    } catch (error) {
      throw this.#misbehaving(error);
    }
  }

  /**
   * From now on, tells the listener which chunks of an image the peer has, and whether it fetches the rest.
   * @param image SHA-256 of its chunk index
   * @param count chunks of the image
   */
  async subscribe(image: ChunkId, count: number, listener: HaveListener): Promise<void> {
    this.#subscribed.set(chunkIdToHex(image), new SubscribedImage(image, count, listener));
    const isOpen = this.#stream !== undefined;
    const { messages } = await this.#connected().catch((error: unknown) => {
      throw this.#unreachable(error);
    });
    // A stream that is being opened subscribes by itself.
    if (isOpen) await messages.send(encodeAsk({ type: 'subscribe', image }));
  }

  /** Ends the stream. All requests under way fail. */
  close(): void {
    this.#isClosed = true;
    this.#stream?.then(
      ({ messages }) => messages.abort(new Error('closed')),
      () => {
        // The stream was never open.
      },
    );
  }

  async #exchange(
    type: 'get' | 'has',
    id: ChunkId,
    { signal, maxPlainBytes }: { signal: AbortSignal | undefined; maxPlainBytes: number },
  ): Promise<Answer> {
    signal?.throwIfAborted();
    const reservedBytes = maxPlainBytes + FRAME_SLACK_BYTES;
    await this.#window.take(reservedBytes, signal);
    let isSent = false;
    try {
      const { messages, pending } = await this.#connected();
      signal?.throwIfAborted();
      this.#lastRequest = (this.#lastRequest + 1) >>> 0;
      const ask = { type, request: this.#lastRequest, id: Uint8Array.from(id) };
      const answer = this.#awaited(pending, messages, { ask, maxPlainBytes, reservedBytes, signal });
      isSent = true;
      messages.send(encodeAsk(ask)).catch((error: unknown) => messages.abort(error));
      return await answer;
    } catch (error) {
      if (!isSent) this.#window.give(reservedBytes);
      signal?.throwIfAborted();
      throw this.#unreachable(error);
    }
  }

  /** Counts the bytes as outstanding until the answer comes or the stream ends, even if the caller gives up. */
  #awaited(
    pending: Map<number, Pending>,
    messages: MessageStream,
    wanted: {
      ask: Ask & { request: number; id: ChunkId };
      maxPlainBytes: number;
      reservedBytes: number;
      signal: AbortSignal | undefined;
    },
  ): Promise<Answer> {
    const { ask, maxPlainBytes, reservedBytes, signal } = wanted;
    const { deadlineMs = DEFAULT_DEADLINE_MS } = this.#options;
    return new Promise<Answer>((resolve, reject) => {
      const giveUp = (): void => {
        reject(signal?.reason);
        messages.send(encodeAsk({ type: 'cancel', request: ask.request })).catch(() => {
          // The stream has ended, so nothing needs to be cancelled.
        });
      };
      const end = (): void => {
        clearTimeout(entry.timer);
        signal?.removeEventListener('abort', giveUp);
        pending.delete(ask.request);
        this.#window.give(reservedBytes);
      };
      const entry: Pending = {
        id: ask.id,
        maxPlainBytes,
        timer: setTimeout(() => messages.abort(new Error(`no answer in ${deadlineMs} ms`)), deadlineMs),
        settle: answer => {
          end();
          resolve(answer);
        },
        fail: error => {
          end();
          reject(error);
        },
      };
      signal?.addEventListener('abort', giveUp, { once: true });
      pending.set(ask.request, entry);
    });
  }

  #connected(): Promise<ConnectedStream> {
    if (this.isUseless) return Promise.reject(this.#violation ?? new Error('it serves us nothing'));
    this.#stream ??= this.#open().catch((error: unknown) => {
      this.#stream = undefined;
      throw error;
    });
    return this.#stream;
  }

  async #open(): Promise<ConnectedStream> {
    const { node, peer, credential } = this.#options;
    const stream: Stream = await node.libp2p.dialProtocol(peerIdFromString(peer), CHUNK_PROTOCOL, {
      signal: AbortSignal.timeout(OPEN_MS),
    });
    const pending = new Map<number, Pending>();
    const messages = new MessageStream(stream, {
      maxMessageBytes: MAX_ANSWER_BYTES,
      onMessage: message => this.#onMessage(pending, message),
      onEnd: error => {
        this.#stream = undefined;
        if (error instanceof SitecastError) this.#misbehaving(error);
        for (const entry of pending.values()) entry.fail(error ?? new Error('the peer has left'));
        this.#onEnd();
      },
    });
    await messages.send(encodeAsk({ type: 'hello', credential: credential ?? new Uint8Array(0) }));
    for (const { image } of this.#subscribed.values())
      await messages.send(encodeAsk({ type: 'subscribe', image }));
    return { messages, pending };
  }

  #onMessage(pending: Map<number, Pending>, message: Buffer): void {
    const answer = decodeAnswer(message);
    switch (answer.type) {
      case 'refused':
        this.#isRefused = true;
        throw new Error('it does not serve us');
      case 'bitfield':
      case 'have':
        this.#subscribedTo(answer.image).onHave(answer);
        break;
      default:
        this.#settle(pending, answer);
    }
  }

  #settle(pending: Map<number, Pending>, answer: Answer & { request: number }): void {
    const entry = pending.get(answer.request);
    if (!entry) throw violation('an answer to nothing');
    if ('bytes' in answer && answer.bytes.length > entry.maxPlainBytes + FRAME_SLACK_BYTES)
      throw violation('more bytes than the chunk has');
    if (answer.type === 'busy') entry.fail(new Error('it is busy'));
    else entry.settle(answer);
  }

  #subscribedTo(image: ChunkId): SubscribedImage {
    const subscribed = this.#subscribed.get(chunkIdToHex(image));
    if (!subscribed) throw violation('what it holds of an image that nobody asked about');
    return subscribed;
  }

  /** Notes the first misbehaviour. */
  #misbehaving(error: unknown): unknown {
    if (!(error instanceof SitecastError) || this.#violation) return error;
    this.#violation = error;
    this.close();
    this.#options.onMisbehaviour?.(this.peer, error);
    return error;
  }

  #unreachable(cause: unknown): SitecastError {
    if (cause instanceof SitecastError) return cause;
    return new SitecastError(
      'unreachable',
      'SITECAST_STORE_UNREACHABLE',
      `${this.name} gave no whole answer`,
      {
        data: { store: this.name },
        cause,
      },
    );
  }
}
