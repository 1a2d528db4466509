import { type ChunkId, type ChunkStore, chunkIdToHex, failover } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { showing } from '@sitecast/shared/fleet';
import { cutText, plural } from '@sitecast/shared/text';

// Each machine with the fleet's key can answer here, including a stolen gateway. The worst answers: none, slow ones, or wrong bytes. Every
// chunk is verified by its id. A neighbour that sent no chunk is asked after the others for a while; one that sent wrong bytes isn't asked
// at all for as long, so it costs this site's WAN one frame, or one for each request that is under way.

/** How many neighbours are asked for one chunk. */
const MAX_ASKED = 3;
/** How long a neighbour that didn't send a chunk is asked after the others, or not at all. */
const REST_MS = 5 * 60_000;
/** Of what one neighbour says. */
const MAX_SAID_CHARS = 160;
/** Where no neighbour gives a chunk. */
export const NO_NEIGHBOUR_GIVES = 'SITECAST_NO_NEIGHBOUR_GIVES';

interface NeighbourChunksOptions {
  /** Members of the fleet's network, the best first. Their stores verify what they return. */
  neighbours: () => readonly { chunks: ChunkStore }[];
  /** This gateway's assignment; undefined before it has one: then no neighbour is asked. */
  credential: () => Promise<Uint8Array | undefined>;
}

/** Chunks from gateways of other sites. Only for a gateway whose upstreams can't be reached, since neighbours pay for what they send. */
export function neighbourChunks({ neighbours, credential }: NeighbourChunksOptions): ChunkStore {
  const stores = failover(() => neighbours().map(({ chunks }) => chunks), {
    name: "gateways of the fleet's network",
    wrongBytes: 'exclude',
    restMs: REST_MS,
    // Neighbours fetch what a rollout under way needs. One that lacks a chunk every time must not be asked first every time.
    restsWhereAbsent: true,
    maxAsked: MAX_ASKED,
  });
  const headers = async (): Promise<Record<string, string>> => showing(await credential());
  return {
    name: stores.name,
    has: async (id, request) => stores.has(id, { ...request, headers: await headers() }),
    get: async (id, request) => {
      const asked = neighbours().length;
      try {
        return await stores.get(id, { ...request, headers: await headers() });
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
        throw noneGives(id, error, asked);
      }
    },
  };
}

/** Tells why, and what people can do: nobody else does, for the gateway that refuses is at another site. */
function noneGives(id: ChunkId, cause: SitecastError, neighbours: number): SitecastError {
  const errors = cause.cause instanceof AggregateError ? cause.cause.errors : [cause];
  const said = errors.filter(error => error instanceof SitecastError).map(saidBy);
  const isRefused = errors.some(error => error instanceof SitecastError && isUploadRefusal(error));
  const why =
    neighbours === 0
      ? 'no gateway of another site is connected'
      : `none of ${plural(Math.min(neighbours, MAX_ASKED), 'gateway')} of other sites gives it: ${said.join('; ')}`;
  return new SitecastError('unreachable', NO_NEIGHBOUR_GIVES, why, {
    hint:
      neighbours === 0
        ? 'Name one that reaches the origin with --gossip-peer, and start that one with --fleet-upload SIZE.'
        : isRefused
          ? 'Start a gateway of another site with --fleet-upload SIZE, or with a larger SIZE; its log says whom it refused, and why.'
          : 'Look at the log of the gateways that were asked.',
    data: { id: chunkIdToHex(id) },
    cause,
  });
}

const isUploadRefusal = ({ data: { said } }: SitecastError): boolean =>
  typeof said === 'object' && said !== null && 'code' in said && said.code === 'SITECAST_UPLOAD_REFUSED';

/** What a neighbour has said; else what came in place of an answer. */
function saidBy({ message, data: { store, said } }: SitecastError): string {
  const who = /12D3\w+/.exec(String(store))?.[0].slice(-8) ?? String(store);
  const detail = typeof said === 'object' && said !== null && 'detail' in said ? said.detail : message;
  return `${who}: ${cutText(String(detail), MAX_SAID_CHARS)}`;
}
