import { type ChunkStore, failover } from '@sitecast/shared/content';
import { showing } from '@sitecast/shared/fleet';

// Each machine with the fleet's key can answer here, a stolen gateway among them. The worst it gives: nothing, slowly, or wrong bytes. Every
// chunk is checked against its id, and a neighbour that gave none, or a wrong one, comes after the others for a while.

/** Neighbours that are asked for one chunk. */
const MAX_ASKED = 3;
/** How long a neighbour that didn't give a chunk comes after the others. */
const REST_MS = 5 * 60_000;

interface NeighbourChunksOptions {
  /** Members of the fleet's network, the best first. Their stores verify what they give. */
  neighbours: () => readonly { chunks: ChunkStore }[];
  /** What this gateway shows of itself; undefined before it has an assignment: then nobody is asked. */
  credential: () => Promise<Uint8Array | undefined>;
}

/** Chunks that gateways of other sites give. It is for a gateway whose upstreams are out of reach: neighbours pay for what they give. */
export function neighbourChunks({ neighbours, credential }: NeighbourChunksOptions): ChunkStore {
  const stores = failover(() => neighbours().map(({ chunks }) => chunks), {
    name: "gateways of the fleet's network",
    wrongBytes: 'rest',
    restMs: REST_MS,
    // They fetch what a rollout under way needs: one that says that it lacks a chunk each time must not be asked first each time.
    restsWhereAbsent: true,
    maxAsked: MAX_ASKED,
  });
  const headers = async (): Promise<Record<string, string>> => showing(await credential());
  return {
    name: stores.name,
    has: async (id, request) => stores.has(id, { ...request, headers: await headers() }),
    get: async (id, request) => stores.get(id, { ...request, headers: await headers() }),
  };
}
