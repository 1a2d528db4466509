import { createHash } from 'node:crypto';
import { IMMUTABLE, rangeError, rangeOf } from '@sitecast/shared/chunk-http';
import fresh from 'fresh';
import type { Context } from 'hono';
import { OTHERS_PIECE_BYTES } from '../wan/wan-limits.ts';
import type { GatewayEnv, NeighbourTurns } from './context.ts';
import { problemResponse } from './problem.ts';

interface ServedBytes {
  bytes: Uint8Array;
  contentType: string;
  isMutable: boolean;
  onSent: (lengthBytes: number) => void;
}

/**
 * Answers GET and HEAD as a web server does: strong ETag, conditional and range requests (RFC 9110), `Cache-Control`. One range is served;
 * for several, the whole file is (as section 14.2 allows).
 */
export function serveBytes(c: Context<GatewayEnv>, served: ServedBytes): Response {
  const { bytes, contentType, isMutable, onSent } = served;
  const etag = etagOf(bytes);
  const headers: Record<string, string> = {
    'content-type': contentType,
    'cache-control': isMutable ? 'no-cache' : IMMUTABLE,
    'accept-ranges': 'bytes',
    'x-content-type-options': 'nosniff',
    etag,
  };
  // A request's `Cache-Control` is for caches on the way: `fetch` sends no-cache with every conditional request.
  const conditions = { 'if-none-match': c.req.header('if-none-match') };
  if (fresh(conditions, headers)) return new Response(null, { status: 304, headers });
  const range = rangeOf(
    { range: c.req.header('range'), ifRange: c.req.header('if-range') },
    etag,
    bytes.length,
  );
  if (range === 'unsatisfiable')
    return problemResponse(rangeError(bytes.length), { 'content-range': `bytes */${bytes.length}` });
  const { start, end } = range ?? { start: 0, end: bytes.length - 1 };
  if (range) headers['content-range'] = `bytes ${start}-${end}/${bytes.length}`;
  headers['content-length'] = String(end - start + 1);
  const isHead = c.req.method === 'HEAD';
  if (!isHead) onSent(end - start + 1);
  const body = isHead ? null : asBody(bytes.subarray(start, end + 1), c.env.neighbour);
  return new Response(body, { status: range ? 206 : 200, headers });
}

const etags = new WeakMap<Uint8Array, string>();

/** A strong ETag, computed once for bytes that stay in memory. */
export function etagOf(bytes: Uint8Array): string {
  const known = etags.get(bytes);
  if (known !== undefined) return known;
  const etag = `"${createHash('sha256').update(bytes).digest('base64url')}"`;
  etags.set(bytes, etag);
  return etag;
}

// The same memory, in a type that `Response` takes.
function asBody(
  bytes: Uint8Array,
  { turn }: Partial<NeighbourTurns> = {},
): Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> {
  if (turn) return inTurns(bytes, turn);
  const { buffer, byteOffset, byteLength } = bytes;
  return buffer instanceof ArrayBuffer
    ? new Uint8Array(buffer, byteOffset, byteLength)
    : new Uint8Array(Buffer.from(buffer, byteOffset, byteLength));
}

/** Each piece waits for its turn, and takes one only once the reader has room for it. */
function inTurns(bytes: Uint8Array, turn: NonNullable<NeighbourTurns['turn']>): ReadableStream<Uint8Array> {
  const gone = new AbortController();
  let at = 0;
  const source = {
    pull: async (controller: ReadableStreamDefaultController<Uint8Array>) => {
      const piece = bytes.subarray(at, at + OTHERS_PIECE_BYTES);
      at += piece.length;
      if (piece.length > 0) {
        await turn(piece.length, gone.signal);
        controller.enqueue(piece);
      }
      if (at >= bytes.length) controller.close();
    },
    cancel: () => gone.abort(),
  };
  return new ReadableStream(source, { highWaterMark: 0 });
}
