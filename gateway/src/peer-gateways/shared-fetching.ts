import { createHash } from 'node:crypto';
import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  chunkNotFound,
  isNotFound,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { sleep } from '@sitecast/shared/async';
import type { PeerGateway, PeerGateways } from './peer-gateways.ts';

// A chunk crosses the site's WAN once: its owner among the site's gateways fetches it, and the others ask the owner. A gateway that is
// asked by another one takes the chunk from its cache, from machines of the site that hold it, or from the origin; so no request goes in a
// circle.

/** A peer gateway may get a new set a moment later than this one, and doesn't know the chunk until then. */
const UNKNOWN_RETRIES = 4;
const UNKNOWN_RETRY_MS = 250;

/**
 * Which of a site's gateways fetches a chunk over the WAN: the one whose hash with the chunk is the highest (rendezvous hashing, Thaler and
 * Ravishankar 1998). Gateways with the same list of members agree; when a member leaves, only its chunks get another owner.
 * @param ids of the members, in any order; at least one
 */
export function ownerOf(chunkHex: string, ids: readonly string[]): string {
  let owner = '';
  let highest = '';
  for (const id of ids) {
    const score = createHash('sha256').update(`${id}/${chunkHex}`).digest('hex');
    if (score > highest) [owner, highest] = [id, score];
  }
  return owner;
}

/** Chunks that other gateways of the site hold already. They fetch nothing for such a request. */
export function heldByPeerGateways(peerGateways: Pick<PeerGateways, 'able'>): ChunkStore {
  const ask = async <T>(
    { signal }: ChunkRequest,
    question: (held: ChunkStore, request: ChunkRequest) => Promise<T>,
  ): Promise<T | undefined> => {
    signal?.throwIfAborted();
    for (const { held, gone } of peerGateways.able) {
      try {
        const answer = await question(held, { signal: signal ? AbortSignal.any([signal, gone]) : gone });
        if (answer) return answer;
      } catch (error) {
        signal?.throwIfAborted();
        // There are other sources for the chunk.
        if (!gone.aborted && !(error instanceof SitecastError)) throw error;
      }
    }
    return undefined;
  };
  const self: ChunkStore = {
    name: 'other gateways of the site',
    has: async (id, request = {}) => (await ask(request, (held, either) => held.has(id, either))) ?? false,
    get: async (id, request = {}) => {
      const chunk = await ask(request, (held, either) => held.get(id, either));
      if (!chunk) throw chunkNotFound(id, self);
      return chunk;
    },
  };
  return self;
}

interface OwnerFirstOptions {
  ownId: string;
  peerGateways: Pick<PeerGateways, 'able' | 'rest'>;
  /** Where this gateway gets a chunk itself. */
  own: ChunkStore;
  /** Called when a peer gateway has sent a chunk. */
  onGiven: () => void;
}

/**
 * Asks the chunk's owner among the site's gateways. If the owner doesn't send the chunk, it isn't asked for a while, and the next owner is.
 * Where this gateway can't get a chunk itself, it asks every peer gateway, as they may still reach the origin.
 */
export function ownerFirst({ ownId, peerGateways, own, onGiven }: OwnerFirstOptions): ChunkStore {
  const ask = async (peer: PeerGateway, id: ChunkId, request: ChunkRequest): Promise<Chunk | undefined> => {
    const chunk = await fetchedBy(peer, id, request);
    if (chunk) onGiven();
    else peerGateways.rest(peer.id);
    return chunk;
  };
  const get = async (id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> => {
    request.signal?.throwIfAborted();
    const failed = new Set<string>();
    const left = (): PeerGateway[] => peerGateways.able.filter(peer => !failed.has(peer.id));
    for (;;) {
      const able = left();
      const ownerId = ownerOf(chunkIdToHex(id), [ownId, ...able.map(peer => peer.id)]);
      const owner = able.find(peer => peer.id === ownerId);
      if (!owner) break;
      const chunk = await ask(owner, id, request);
      if (chunk) return chunk;
      failed.add(owner.id);
    }
    try {
      return await own.get(id, request);
    } catch (error) {
      request.signal?.throwIfAborted();
      if (error instanceof SitecastError && error.code === 'SITECAST_QUIET_HOURS') throw error;
      for (const peer of left()) {
        const chunk = await ask(peer, id, request);
        if (chunk) return chunk;
      }
      throw error;
    }
  };
  return { name: own.name, has: (id, request) => own.has(id, request), get };
}

/** @returns undefined where the peer gateway does not send the chunk */
async function fetchedBy(
  { fetched, gone }: PeerGateway,
  id: ChunkId,
  { signal }: ChunkRequest,
): Promise<Chunk | undefined> {
  const either = signal ? AbortSignal.any([signal, gone]) : gone;
  for (let retry = 0; ; retry += 1) {
    try {
      return await fetched.get(id, { signal: either });
    } catch (error) {
      signal?.throwIfAborted();
      if (isNotFound(error) && retry < UNKNOWN_RETRIES && (await sleep(UNKNOWN_RETRY_MS, either))) continue;
      if (!gone.aborted && !(error instanceof SitecastError)) throw error;
      return undefined;
    }
  }
}

/**
 * Counts the chunks that this gateway fetches although another one is their owner.
 * @param ids of the gateways that count, this one included
 */
export function countedOutOfTurn(
  store: ChunkStore,
  { ownId, ids, onOutOfTurn }: { ownId: string; ids: () => readonly string[]; onOutOfTurn: () => void },
): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      const isOutOfTurn = ownerOf(chunkIdToHex(id), ids()) !== ownId;
      const chunk = await store.get(id, request);
      if (isOutOfTurn) onOutOfTurn();
      return chunk;
    },
  };
}
