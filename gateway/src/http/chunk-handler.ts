import type { IncomingMessage, ServerResponse } from 'node:http';
import { SitecastError } from '@sitecast/shared/errors';
import { FairPool } from '@sitecast/shared/bounded';
import { statusOf } from '@sitecast/shared/http-problem';
import type { ChunkPipeline } from '../chunk-pipeline.ts';
import type { QueuedChunkStore } from '../chunks/fetch-queue.ts';
import { frameOf } from '../chunks/memory-store.ts';
import { isNotFound } from '@sitecast/shared/content';
import type { Log } from '@sitecast/shared/log';
import { FORWARDED_HEADER, MAY_FETCH_VALUE } from './context.ts';
import { asSitecastError, problemResponse } from './problem.ts';
import { IMMUTABLE, rangeError, rangeOf } from './serve-bytes.ts';

/** Bytes of frames on their way to slow readers. Beyond the bound, the address that holds the most loses its oldest answer. */
const MAX_RESPONSE_MEMORY_BYTES = 256 * 1024 * 1024;
/** The least that an answer counts. */
const MIN_RESPONSE_BYTES = 4096;
/** Its second part is the chunk's id. */
export const CHUNK_PATH = /^\/chunks\/([0-9a-f]{4})\/(\1[0-9a-f]{60})\.cacnk$/;

export interface ChunkHandlerDeps {
  chunks: Pick<ChunkPipeline, 'isAllowed' | 'inMemory' | 'here' | 'forDevices' | 'forGateways'>;
  onAnswer: (status: number, sentBytes: number, request: IncomingMessage) => void;
  /** Who shares memory and turns with nobody else. */
  ownerOf: (request: IncomingMessage) => string;
  log: Log;
  maxMemoryBytes?: number;
}

/** @returns false where the request is not for a chunk: then it is answered elsewhere */
export type ChunkHandler = (request: IncomingMessage, response: ServerResponse) => boolean;

/**
 * Answers GET and HEAD for /chunks/, which a gateway does thousands of times a second: directly on Node's own objects, each frame
 * from the buffer that all its readers share. All other paths go through the app.
 */
export function chunkHandler(deps: ChunkHandlerDeps): ChunkHandler {
  const memory = new FairPool({
    max: deps.maxMemoryBytes ?? MAX_RESPONSE_MEMORY_BYTES,
    minUnits: MIN_RESPONSE_BYTES,
  });
  return (request, response) => {
    const hex = CHUNK_PATH.exec(request.url ?? '')?.[2];
    if (hex === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false;
    const id = Buffer.from(hex, 'hex');
    const { chunks } = deps;
    if (!chunks.isAllowed(id)) {
      refuse(deps, request, response, notFound(hex));
      return true;
    }
    const found = chunks.inMemory(hex);
    if (found) {
      send(deps, memory, request, response, found);
      return true;
    }
    const store = storeFor(request, chunks);
    store.get(id, { requester: deps.ownerOf(request) }).then(
      chunk => send(deps, memory, request, response, frameOf(chunk)),
      (error: unknown) => {
        const isAbsent = store === chunks.here && isNotFound(error);
        refuse(deps, request, response, isAbsent ? notFound(hex) : upstreamFailure(error));
      },
    );
    return true;
  };
}

/** A gateway gets what the origin has, or just what lies here, so that nothing is forwarded twice. */
function storeFor({ headers }: IncomingMessage, chunks: ChunkHandlerDeps['chunks']): QueuedChunkStore {
  const forwarded = headers[FORWARDED_HEADER];
  if (forwarded === undefined) return chunks.forDevices;
  return (forwarded === MAY_FETCH_VALUE ? chunks.forGateways : undefined) ?? chunks.here;
}

function send(
  deps: ChunkHandlerDeps,
  memory: FairPool,
  request: IncomingMessage,
  response: ServerResponse,
  frame: Buffer,
): void {
  if (response.destroyed) return;
  const isHead = request.method === 'HEAD';
  const etag = etagOfFrame(frame);
  const { headers } = request;
  if (headers['if-none-match'] !== undefined && matches(headers['if-none-match'], etag)) {
    response.writeHead(304, ['etag', etag, 'cache-control', IMMUTABLE]).end();
    deps.onAnswer(304, 0, request);
    return;
  }
  const range = rangeOf(
    { range: headers.range, ifRange: headers['if-range']?.toString() },
    etag,
    frame.length,
  );
  if (range === 'unsatisfiable') {
    response.setHeader('content-range', `bytes */${frame.length}`);
    refuse(deps, request, response, rangeError(frame.length));
    return;
  }
  const body = range ? frame.subarray(range.start, range.end + 1) : frame;
  const sentBytes = isHead ? 0 : body.length;
  const lease = memory.lease(deps.ownerOf(request), sentBytes, () => response.destroy());
  if (!lease) {
    refuse(
      deps,
      request,
      response,
      new SitecastError('unreachable', 'SITECAST_BUSY', 'the gateway sends all it can hold'),
    );
    return;
  }
  response.once('close', () => lease.release());
  const fields = [
    'content-type',
    'application/octet-stream',
    'cache-control',
    IMMUTABLE,
    'accept-ranges',
    'bytes',
    'x-content-type-options',
    'nosniff',
    'etag',
    etag,
    'content-length',
    String(body.length),
  ];
  if (range) fields.push('content-range', `bytes ${range.start}-${range.end}/${frame.length}`);
  response.writeHead(range ? 206 : 200, fields);
  if (isHead) response.end();
  else response.end(body);
  deps.onAnswer(range ? 206 : 200, sentBytes, request);
}

/** A chunk may have several frames: length and last bytes tell them apart without a hash. */
function etagOfFrame(frame: Buffer): string {
  return `"${frame.length.toString(16)}-${frame.toString('hex', Math.max(0, frame.length - 12))}"`;
}

function matches(header: string, etag: string): boolean {
  return header.split(',').some(part => {
    const tag = part.trim();
    return tag === '*' || tag === etag || tag === `W/${etag}`;
  });
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

function refuse(
  deps: ChunkHandlerDeps,
  request: IncomingMessage,
  response: ServerResponse,
  thrown: unknown,
): void {
  if (response.destroyed) return;
  const error = asSitecastError(thrown);
  const status = statusOf(error);
  if (status >= 500)
    deps.log.warn(
      error.code === 'SITECAST_INTERNAL' ? { err: thrown } : { code: error.code, detail: error.message },
      'a chunk could not be served',
    );
  deps.onAnswer(status, 0, request);
  sendProblem(response, error);
}

export function sendProblem(response: ServerResponse, error: SitecastError): void {
  const problem = problemResponse(error);
  problem.headers.forEach((value, name) => response.setHeader(name, value));
  problem.text().then(
    text => response.writeHead(problem.status).end(text),
    // This text cannot fail to be read; if it does, the reader must not hang.
    () => response.destroy(),
  );
}

// A chunk that an index names but no upstream gives is missing for the moment. A 404 would say that it does not exist.
function upstreamFailure(error: unknown): unknown {
  if (!(error instanceof SitecastError) || error.code === 'SITECAST_BUSY') return error;
  if (error.code === 'SITECAST_NO_SPACE' || error.code === 'SITECAST_QUIET_HOURS') return error;
  return new SitecastError(
    'unreachable',
    'SITECAST_CHUNK_UNAVAILABLE',
    'this chunk is not here yet, and no upstream gives it',
    { cause: error, data: error.data },
  );
}
