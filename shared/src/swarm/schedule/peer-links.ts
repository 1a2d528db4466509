import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChunkId } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import type { HttpPeers } from '../chunks/http-peers.ts';
import { PeerStore } from '../chunks/peer-store.ts';
import type { SwarmNode } from '../node.ts';
import { MAX_PEERS } from './picker.ts';
import type { SwarmStore } from './swarm-store.ts';

const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;
/** After this many failed tries in a row, a peer makes room for others where places are scarce, until it is named again. */
const MAX_VAIN_TRIES = 4;
const PLENTY = MAX_PEERS / 2;
/** A peer whose connection lasted at least this long before it was lost is tried again soon. */
const STEADY_MS = 30_000;
/** Two peers that discover each other at the same time would both dial: the one with the higher id waits this long for the other. */
export const YIELD_MS = 300;

interface PeerLinksOptions {
  readonly node: SwarmNode;
  /** This machine's signed assignment, shown to each peer. */
  readonly credential?: Uint8Array;
  /** The store that requests chunks from the peers. */
  readonly swarm: Pick<SwarmStore, 'addPeer' | 'removePeer' | 'onHave'>;
  /** SHA-256 of the image's chunk index. */
  readonly image: ChunkId;
  /** How many chunks the image has. */
  readonly count: number;
  readonly onMisbehaviour?: (peer: string, error: SitecastError) => void;
  /** Used for peers that serve chunks over plain HTTP. Default: chunks come only over streams. */
  readonly http?: HttpPeers;
}

/** Keeps a swarm connected to the peers that were named, for one image. */
export class PeerLinks {
  readonly #options: PeerLinksOptions;
  readonly #links = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();
  /** For each open stream, a function that ends the wait for its end. */
  readonly #leave = new Set<() => void>();

  constructor(options: PeerLinksOptions) {
    this.#options = options;
    setMaxListeners(4 * MAX_PEERS, this.#stop.signal);
  }

  /**
   * Connects to a peer, and again whenever the connection is lost, until `close`, or until the peer proves useless.
   * @param addresses multiaddresses of one peer with its id at their end; needn't be verified
   */
  addPeer(id: string, addresses: readonly string[]): void {
    if (this.#stop.signal.aborted || id === this.#options.node.id) return;
    if (this.#links.has(id) || this.#links.size >= MAX_PEERS) return;
    const link = this.#keep(id, addresses).finally(() => this.#links.delete(id));
    this.#links.set(id, link);
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('closed'));
    for (const leave of this.#leave) leave();
    await Promise.all(this.#links.values());
  }

  async #keep(id: string, addresses: readonly string[]): Promise<void> {
    const { node, swarm, credential, onMisbehaviour } = this.#options;
    const { signal } = this.#stop;
    let pauseMs = FIRST_PAUSE_MS;
    let vainTries = 0;
    while (!signal.aborted && (vainTries < MAX_VAIN_TRIES || this.#links.size < PLENTY)) {
      const store = new PeerStore({
        node,
        peer: id,
        ...(credential && { credential }),
        ...(onMisbehaviour && { onMisbehaviour }),
      });
      const beginMs = performance.now();
      try {
        vainTries += 1;
        await connect(node, id, addresses, signal);
        vainTries = 0;
        await this.#stay(store);
      } catch (error) {
        if (!signal.aborted && !(error instanceof SitecastError)) throw error;
      } finally {
        swarm.removePeer(id);
        store.close();
      }
      if (store.isMisbehaving) return;
      // A peer that refuses may not know this machine yet.
      const isSteady = !store.isRefusing && performance.now() - beginMs > STEADY_MS;
      pauseMs = isSteady ? FIRST_PAUSE_MS : Math.min(MAX_PAUSE_MS, pauseMs * 2);
      await sleep(pauseMs, undefined, { signal }).catch(() => {
        // Closed: the loop ends.
      });
    }
  }

  /** Resolves when the stream ends. */
  async #stay(store: PeerStore): Promise<void> {
    const { swarm, image, count, http, credential } = this.#options;
    const overHttp = http?.peer(store, credential);
    if (!swarm.addPeer(overHttp ?? store)) return;
    let leave = (): void => {};
    const ended = new Promise<void>(resolve => {
      leave = resolve;
    });
    store.onEnd(leave);
    this.#leave.add(leave);
    try {
      await store.subscribe(image, count, (added, isFetching) => swarm.onHave(store.peer, added, isFetching));
      await ended;
    } finally {
      this.#leave.delete(leave);
      overHttp?.close();
    }
  }
}

/**
 * Connects to a peer, if it isn't connected.
 * @param addresses multiaddresses of the peer, its id at their end
 * @throws SITECAST_PEER_UNREACHABLE, SITECAST_PEER_ADDRESS
 */
export async function connect(
  node: SwarmNode,
  id: string,
  addresses: readonly string[],
  signal: AbortSignal,
  yieldMs = YIELD_MS,
): Promise<void> {
  if (!node.isConnected(id) && node.id > id) await sleep(yieldMs, undefined, { signal });
  if (node.isConnected(id)) return;
  let last: unknown = new SitecastError(
    'unreachable',
    'SITECAST_PEER_UNREACHABLE',
    'a peer without an address',
  );
  for (const address of addresses) {
    try {
      await node.dial(address, signal);
      return;
    } catch (error) {
      signal.throwIfAborted();
      last = error;
    }
  }
  throw last;
}
