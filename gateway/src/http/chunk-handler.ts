import type { IncomingMessage } from 'node:http';
import { type ChunkHandler, chunkRoute, type FramePieces, type Requester } from '@sitecast/shared/chunk-http';
import { isNotFound } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { Log } from '@sitecast/shared/log';
import type { ChunkPipeline } from '../chunk-pipeline.ts';
import type { QueuedChunkStore } from '../chunks/fetch-queue.ts';
import { frameOf } from '../chunks/memory-store.ts';
import { NO_NEIGHBOUR_GIVES } from '../peer-gateways/neighbour-chunks.ts';
import { FORWARDED_HEADER, MAY_FETCH_VALUE } from './context.ts';
import { asSitecastError, problemResponse } from './problem.ts';

/** Bytes of frames on their way to slow readers. Beyond the bound, the address that holds the most loses its oldest answer. */
const MAX_RESPONSE_MEMORY_BYTES = 256 * 1024 * 1024;

export interface ChunkHandlerDeps<R extends Requester = Requester> {
  chunks: Pick<ChunkPipeline, 'isAllowed' | 'atOnce' | 'here' | 'forDevices' | 'forGateways'>;
  onAnswer: (status: number, sentBytes: number, requester: R) => void;
  log: Log;
  maxMemoryBytes?: number;
}

/** Answers requests for chunks, each from the buffer that all its readers share. All other paths go through the app. */
export function chunkHandler<R extends Requester>({
  chunks,
  onAnswer,
  log,
  maxMemoryBytes,
}: ChunkHandlerDeps<R>): ChunkHandler<R> {
  const fetch = async (id: Buffer, { owner }: R, request: IncomingMessage): Promise<FramePieces> => {
    const store = storeFor(request, chunks);
    try {
      return [frameOf(await store.get(id, { requester: owner }))];
    } catch (error) {
      throw store === chunks.here && isNotFound(error)
        ? notFound(id.toString('hex'))
        : upstreamFailure(error);
    }
  };
  return chunkRoute({
    find: (hex, requester, request) => {
      const id = Buffer.from(hex, 'hex');
      if (!chunks.isAllowed(id)) throw notFound(hex);
      const found = chunks.atOnce(id, hex);
      return found ? [found] : fetch(id, requester, request);
    },
    onAnswer,
    asError: asSitecastError,
    asResponse: problemResponse,
    onFailure: (error, thrown) =>
      log.warn(
        error.code === 'SITECAST_INTERNAL'
          ? { err: thrown }
          : { code: error.code, detail: error.message, hint: error.hint },
        'a chunk could not be served',
      ),
    maxMemoryBytes: maxMemoryBytes ?? MAX_RESPONSE_MEMORY_BYTES,
  });
}

/** For gateways: chunks from the origin or only stored ones, so that nothing is forwarded twice. */
function storeFor({ headers }: IncomingMessage, chunks: ChunkHandlerDeps['chunks']): QueuedChunkStore {
  const forwarded = headers[FORWARDED_HEADER];
  if (forwarded === undefined) return chunks.forDevices;
  return (forwarded === MAY_FETCH_VALUE ? chunks.forGateways : undefined) ?? chunks.here;
}

function notFound(hex: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_CHUNK_NOT_FOUND',
    'no index that is mirrored here names this chunk',
    {
      data: { id: hex },
    },
  );
}

// A chunk that an index names but no upstream sends is unavailable at the moment. A 404 would say that it does not exist.
function upstreamFailure(error: unknown): unknown {
  if (!(error instanceof SitecastError) || error.code === 'SITECAST_BUSY') return error;
  if (error.code === 'SITECAST_NO_SPACE' || error.code === 'SITECAST_QUIET_HOURS') return error;
  const neighbours = neighboursErrorIn(error);
  const { id, store } = error.data;
  return new SitecastError(
    'unreachable',
    'SITECAST_CHUNK_UNAVAILABLE',
    neighbours
      ? `this chunk is not here yet, no upstream answers, and ${neighbours.message}`
      : 'this chunk is not here yet, and no upstream gives it',
    {
      cause: error,
      ...(neighbours?.hint !== undefined && { hint: neighbours.hint }),
      data: { id, ...(store !== undefined && { store }) },
    },
  );
}

/** Why no gateway of another site sends it; undefined where none was asked. */
function neighboursErrorIn(error: unknown): SitecastError | undefined {
  if (error instanceof AggregateError) {
    for (const one of error.errors) {
      const found = neighboursErrorIn(one);
      if (found) return found;
    }
    return undefined;
  }
  if (!(error instanceof SitecastError)) return undefined;
  return error.code === NO_NEIGHBOUR_GIVES ? error : neighboursErrorIn(error.cause);
}
