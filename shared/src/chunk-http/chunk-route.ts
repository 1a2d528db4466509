import type { IncomingMessage, ServerResponse } from 'node:http';
import { FairPool } from '../bounded/index.ts';
import { SitecastError } from '../errors.ts';
import { statusOf } from '../http-problem/index.ts';
import { IMMUTABLE, rangeError, rangeOf } from './ranges.ts';

/** The least memory that an answer counts for. */
const MIN_RESPONSE_BYTES = 4096;
const ETAG_TAIL_BYTES = 12;
/** Its second part is the chunk's id. */
export const CHUNK_PATH = /^\/chunks\/([0-9a-f]{4})\/(\1[0-9a-f]{60})\.cacnk$/;

/** A chunk's zstd frame, in pieces that many answers may share. */
export type FramePieces = readonly Uint8Array[];

/** The sender of one request. */
export interface Requester {
  /** To whom used memory is counted: an address, or a machine's id. */
  readonly owner: string;
}

export interface ChunkRouteDeps<R extends Requester> {
  /**
   * The frame of a chunk, by its id in hex. Returns at once where it is in memory.
   * @throws an error for the answer (see `asError`)
   */
  readonly find: (hex: string, requester: R, request: IncomingMessage) => FramePieces | Promise<FramePieces>;
  /** Resolves when a body of this length may be sent. @throws an error for the answer. Default: at once */
  readonly pace?: (sentBytes: number, requester: R) => Promise<void>;
  readonly onAnswer: (status: number, sentBytes: number, requester: R) => void;
  /** Turns any error into a SitecastError, and that into an answer. */
  readonly asError: (thrown: unknown) => SitecastError;
  readonly asResponse: (error: SitecastError) => Response;
  /** Called for an answer with a status of 500 or more. */
  readonly onFailure?: (error: SitecastError, thrown: unknown) => void;
  /**
   * Bound on the frames that are being sent to slow readers; a part counts as its whole frame. Beyond it, the requester with the most
   * loses its oldest answer.
   */
  readonly maxMemoryBytes: number;
}

/** @returns false where the request is not for a chunk: then it is answered elsewhere */
export type ChunkHandler<R extends Requester = Requester> = (
  request: IncomingMessage,
  response: ServerResponse,
  requester: R,
) => boolean;

/** A request that is being answered. */
interface Asked<R> {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly requester: R;
}

/**
 * Answers GET and HEAD for /chunks/ in casync's layout, with strong ETags, conditional and range requests (RFC 9110). A gateway answers
 * thousands of these a second, so this works directly on Node's objects and copies no frame.
 */
export function chunkRoute<R extends Requester>(deps: ChunkRouteDeps<R>): ChunkHandler<R> {
  const memory = new FairPool({ max: deps.maxMemoryBytes, minUnits: MIN_RESPONSE_BYTES });
  return (request, response, requester) => {
    const hex = CHUNK_PATH.exec(request.url ?? '')?.[2];
    if (hex === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false;
    const asked: Asked<R> = { request, response, requester };
    try {
      const found = deps.find(hex, requester, request);
      if (!(found instanceof Promise)) send(deps, memory, asked, found);
      else
        found.then(
          frame => send(deps, memory, asked, frame),
          (error: unknown) => refuse(deps, asked, error),
        );
    } catch (error) {
      refuse(deps, asked, error);
    }
    return true;
  };
}

function send<R extends Requester>(
  deps: ChunkRouteDeps<R>,
  memory: FairPool,
  asked: Asked<R>,
  frame: FramePieces,
): void {
  const { request, response, requester } = asked;
  if (response.destroyed) return;
  const isHead = request.method === 'HEAD';
  const lengthBytes = lengthOf(frame);
  const etag = etagOf(frame, lengthBytes);
  const { headers } = request;
  if (headers['if-none-match'] !== undefined && matches(headers['if-none-match'], etag)) {
    response.writeHead(304, ['etag', etag, 'cache-control', IMMUTABLE]).end();
    deps.onAnswer(304, 0, requester);
    return;
  }
  const conditions = { range: headers.range, ifRange: headers['if-range']?.toString() };
  const range = rangeOf(conditions, etag, lengthBytes);
  if (range === 'unsatisfiable') {
    response.setHeader('content-range', `bytes */${lengthBytes}`);
    refuse(deps, asked, rangeError(lengthBytes));
    return;
  }
  const bodyBytes = range ? range.end + 1 - range.start : lengthBytes;
  const sentBytes = isHead ? 0 : bodyBytes;
  // A part keeps the whole frame in memory.
  const heldBytes = isHead ? 0 : lengthBytes;
  const lease = memory.lease(requester.owner, heldBytes, () => response.destroy());
  if (!lease) {
    const full = 'this server sends all it can hold';
    refuse(deps, asked, new SitecastError('unreachable', 'SITECAST_BUSY', full));
    return;
  }
  response.on('close', () => lease.release());
  const answer = (): void => {
    if (response.destroyed) return;
    response.writeHead(range ? 206 : 200, fieldsOf(etag, lengthBytes, range));
    if (isHead) response.end();
    else end(response, range ? partOf(frame, range) : frame);
    deps.onAnswer(range ? 206 : 200, sentBytes, requester);
  };
  if (isHead || !deps.pace) answer();
  else deps.pace(sentBytes, requester).then(answer, (error: unknown) => refuse(deps, asked, error));
}

function lengthOf(frame: FramePieces): number {
  let lengthBytes = 0;
  for (const { length } of frame) lengthBytes += length;
  return lengthBytes;
}

/** @param range its ends, both included */
function partOf(frame: FramePieces, { start, end }: { start: number; end: number }): FramePieces {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const piece of frame) {
    const part = piece.subarray(Math.max(0, start - at), Math.max(0, end + 1 - at));
    if (part.length > 0) parts.push(part);
    at += piece.length;
  }
  return parts;
}

function fieldsOf(etag: string, lengthBytes: number, range: ReturnType<typeof rangeOf>): string[] {
  const part = typeof range === 'object' ? range : undefined;
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
    String(part ? part.end + 1 - part.start : lengthBytes),
  ];
  if (part) fields.push('content-range', `bytes ${part.start}-${part.end}/${lengthBytes}`);
  return fields;
}

function end(response: ServerResponse, pieces: FramePieces): void {
  const last = pieces.at(-1);
  if (pieces.length > 1) response.cork();
  for (const piece of pieces.slice(0, -1)) response.write(piece);
  response.end(last);
}

/** Different frames of a chunk are distinguished by their length and last bytes, without a hash. */
function etagOf(frame: FramePieces, lengthBytes: number): string {
  const last = frame.at(-1) ?? new Uint8Array(0);
  const bytes = Buffer.isBuffer(last) ? last : Buffer.from(last.buffer, last.byteOffset, last.length);
  const hex = bytes.toString('hex', Math.max(0, bytes.length - ETAG_TAIL_BYTES));
  return `"${lengthBytes.toString(16)}-${hex}"`;
}

function matches(header: string, etag: string): boolean {
  return header.split(',').some(part => {
    const tag = part.trim();
    return tag === '*' || tag === etag || tag === `W/${etag}`;
  });
}

/** Answers with an error, whatever it is. */
function refuse<R extends Requester>(
  deps: ChunkRouteDeps<R>,
  { response, requester }: Asked<R>,
  thrown: unknown,
): void {
  if (response.destroyed) return;
  const error = deps.asError(thrown);
  const status = statusOf(error);
  if (status >= 500) deps.onFailure?.(error, thrown);
  deps.onAnswer(status, 0, requester);
  answerWith(response, deps.asResponse(error));
}

/** Sends an answer whose body is a short text. */
export function answerWith(response: ServerResponse, answer: Response): void {
  answer.headers.forEach((value, name) => response.setHeader(name, value));
  answer.text().then(
    // With a length: otherwise the reader would take the answer for malformed and ask again, but a proof is accepted only once.
    text => response.writeHead(answer.status, { 'content-length': Buffer.byteLength(text) }).end(text),
    // Reading this text can't fail; if it does nevertheless, the reader must not hang.
    () => response.destroy(),
  );
}
