import {
  type ChunkId,
  type ChunkStore,
  chunkIdToHex,
  failover,
  isNotFound,
  isWrongBytes,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { showing } from '@sitecast/shared/fleet';
import type { Log } from '@sitecast/shared/log';
import { plural } from '@sitecast/shared/text';

// Each machine with the fleet's key can answer here, including a stolen gateway. The worst answers: none, slow ones, or wrong bytes. Every
// chunk is verified by its id. A neighbour that sent no chunk is asked after the others for a while; one that sent wrong bytes isn't asked
// at all for as long, so it costs this site's WAN one frame, or one for each request that is under way.

/** How many neighbours are asked for one chunk. */
const MAX_ASKED = 3;
/** How long a neighbour that didn't send a chunk is asked after the others, or not at all. */
const REST_MS = 5 * 60_000;
/** Where no neighbour gives a chunk. */
export const NO_NEIGHBOUR_GIVES = 'SITECAST_NO_NEIGHBOUR_GIVES';

interface NeighbourChunksOptions {
  /** Members of the fleet's network, the best first. Their stores verify what they return. */
  neighbours: () => readonly { chunks: ChunkStore }[];
  /** This gateway's assignment; undefined before it has one: then no neighbour is asked. */
  credential: () => Promise<Uint8Array | undefined>;
  log: Pick<Log, 'warn'>;
}

/** Chunks from gateways of other sites. Only for a gateway whose upstreams can't be reached, since neighbours pay for what they send. */
export function neighbourChunks({ neighbours, credential, log }: NeighbourChunksOptions): ChunkStore {
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
        throw noneGives(id, error, { neighbours: asked, log });
      }
    },
  };
}

/** Tells why, and what people can do: nobody else does, for the gateway that refuses is at another site. */
function noneGives(
  id: ChunkId,
  cause: SitecastError,
  { neighbours, log }: { neighbours: number; log: Pick<Log, 'warn'> },
): SitecastError {
  const errors = cause.cause instanceof AggregateError ? cause.cause.errors : [cause];
  const failures = errors.filter(error => error instanceof SitecastError);
  const said = failures.slice(0, MAX_ASKED).map(error => `${whoIn(error)}: ${reasonOf(error)}`);
  // A neighbour's own texts are for the people here alone: its answer isn't verified, and devices pass their reasons on.
  for (const error of failures)
    log.warn(
      { neighbour: whoIn(error), code: error.code, detail: error.message },
      'a gateway of another site gives no chunk',
    );
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

const saidIn = ({ data: { said } }: SitecastError): { code?: unknown; why?: unknown } =>
  typeof said === 'object' && said !== null ? said : {};

const isUploadRefusal = (error: SitecastError): boolean => saidIn(error).code === 'SITECAST_UPLOAD_REFUSED';

/** By the word that a refusal comes with (`neighbour-upload.ts`). */
const REFUSALS = new Map<unknown, string>([
  ['off', 'none are given to other sites (--fleet-upload is not set)'],
  ['usedUp', 'what --fleet-upload allows for today is used up'],
  ['notWhole', 'whole chunks alone are given'],
  ['ownRevoked', 'it is revoked itself'],
  ['revoked', 'this gateway was revoked'],
  ['tooOften', 'this gateway was refused too often, and is asked to wait'],
  ['noAssignment', 'this gateway shows no assignment that counts there'],
  ['notOrdered', 'no rollout that is listed there orders a release with this chunk'],
  ['busy', 'its link has been full for a minute'],
]);
const CODES = new Map<unknown, string>([
  ['SITECAST_CHUNK_UNAVAILABLE', 'it can not get this chunk at the moment'],
  ['SITECAST_QUIET_HOURS', 'it has its quiet hours'],
  ['SITECAST_BUSY', 'it is busy'],
  ['SITECAST_NO_SPACE', 'its disk is full'],
]);

/** Why a neighbour gives none, in words of this gateway's. */
function reasonOf(error: SitecastError): string {
  const { code, why } = saidIn(error);
  if (isWrongBytes(error)) return 'it sent wrong bytes, and is not asked for some minutes';
  if (isUploadRefusal(error)) return REFUSALS.get(why) ?? 'it refuses';
  if (isNotFound(error)) return 'it lacks this chunk';
  return CODES.get(code) ?? 'it gave no answer that is understood';
}

const whoIn = ({ data: { store } }: SitecastError): string =>
  /12D3\w+/.exec(String(store))?.[0].slice(-8) ?? 'one of them';
