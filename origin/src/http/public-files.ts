import { createHash } from 'node:crypto';
import { chunkIdFromHex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { cutText } from '@sitecast/shared/text';
import fresh from 'fresh';
import type { Context } from 'hono';
import parseRange from 'range-parser';
import type { FileRef, OpenFile, RepositoryStore } from '../repository/repository-store.ts';
import { ROLES } from '../repository/roles.ts';
import type { Scrubber } from '../repository/scrubber.ts';
import type { OriginEnv } from './context.ts';
import type { MemoryBudget } from './memory.ts';
import { problemResponse } from './problem.ts';

/** Files up to this length are read in one go and sent from memory: three times as fast as a stream. */
const MAX_BUFFERED_BYTES = 2 * 1024 * 1024;
const IMMUTABLE = 'public, max-age=31536000, immutable';

const METADATA_NAME = /^([1-9]\d{0,15})\.(root|targets|snapshot|rollouts|deltas)\.json$/;
const TARGET_NAME = /^([0-9a-f]{64})\.([a-z0-9][a-z0-9._-]{0,100}\.(?:json|caibx|recipe))$/;
const TARGET_FOLDER = /^(?:releases|products|rollouts|deltas)$/;
const CHUNK_FOLDER = /^[0-9a-f]{4}$/;
const CHUNK_NAME = /^([0-9a-f]{64})\.cacnk$/;

/** The file of a path below /metadata, /targets and /chunks; undefined for every name that can't exist. */
export const served = {
  metadata(name: string): (FileRef & { kind: 'metadata' }) | undefined {
    const [, version, found] = METADATA_NAME.exec(name) ?? [];
    const role = ROLES.find(role => role === found);
    return role && { kind: 'metadata', role, version: Number(version) };
  },
  target(folder: string, name: string): FileRef | undefined {
    const [, sha256, rest] = TARGET_NAME.exec(name) ?? [];
    if (!TARGET_FOLDER.test(folder) || sha256 === undefined) return undefined;
    return { kind: 'target', name: `${folder}/${rest}`, sha256 };
  },
  chunk(folder: string, name: string): FileRef | undefined {
    const hex = CHUNK_NAME.exec(name)?.[1];
    if (hex === undefined || !CHUNK_FOLDER.test(folder) || !hex.startsWith(folder)) return undefined;
    return { kind: 'chunk', id: chunkIdFromHex(hex) };
  },
};

interface PublicFilesDeps {
  published: Pick<RepositoryStore, 'open'>;
  scrubber: Pick<Scrubber, 'suspect' | 'lookForMissing'>;
  responseMemory: MemoryBudget;
}

/** Answers for metadata in force. It is served from memory, so damage to the stored file doesn't matter. */
export function serveMetadata(
  c: Context<OriginEnv>,
  name: string,
  bytes: Uint8Array,
): Promise<Response> | Response {
  const headers = { ...commonHeaders(name), 'cache-control': IMMUTABLE, etag: timestampTag(bytes) };
  return respond(c, headers, bytes.length, (start, end) => new Uint8Array(bytes.subarray(start, end + 1)));
}

export function timestampTag(bytes: Uint8Array): string {
  return `"${createHash('sha256').update(bytes).digest('base64url')}"`;
}

/** Answers for timestamp.json, the one file that changes. The version in memory is durable already. */
export function serveTimestamp(
  c: Context<OriginEnv>,
  bytes: Uint8Array | undefined,
  besides: Readonly<Record<string, string>> = {},
): Promise<Response> | Response {
  if (bytes === undefined) return notFound(c);
  const headers = {
    ...commonHeaders('timestamp.json'),
    'cache-control': 'no-cache',
    etag: timestampTag(bytes),
    ...besides,
  };
  return respond(c, headers, bytes.length, (start, end) => new Uint8Array(bytes.subarray(start, end + 1)));
}

/**
 * Answers GET and HEAD for a published file as a plain web server would: strong ETag, conditional and range requests (RFC 9110), and a
 * caching time. A request for one range gets that range; a request for several gets the whole file (as section 14.2 allows).
 */
export async function serveFile(
  c: Context<OriginEnv>,
  deps: PublicFilesDeps,
  wanted: FileRef | undefined,
): Promise<Response> {
  const file = wanted && (await openPublished(deps, wanted));
  if (!file) return notFound(c);
  let isClosed = false;
  try {
    const headers = {
      ...commonHeaders(wanted.kind === 'target' ? wanted.name : wanted.kind === 'metadata' ? '.json' : ''),
      'cache-control': IMMUTABLE,
      etag: `"${wanted.kind === 'target' ? wanted.sha256 : file.tag}"`,
    };
    return await respond(c, headers, file.lengthBytes, (start, end) => {
      isClosed = true;
      return bodyOf(c, file, deps.responseMemory, start, end);
    });
  } finally {
    if (!isClosed) file.close();
  }
}

/**
 * Opens a file for a client. Damage that is found on the way is looked into, and a lost file is brought back if there is a copy.
 * @returns undefined if there is no such file, or no right one
 */
async function openPublished(
  { published, scrubber }: PublicFilesDeps,
  file: FileRef,
): Promise<OpenFile | undefined> {
  const found = await published.open(file);
  if (typeof found !== 'string') return found;
  if (found === 'damaged') scrubber.suspect(file);
  if (!(await scrubber.lookForMissing(file))) return undefined;
  const again = await published.open(file);
  return typeof again === 'string' ? undefined : again;
}

type ReadRange = (start: number, end: number) => Body | Promise<Body>;
type Body = Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>;

async function respond(
  c: Context<OriginEnv>,
  fileHeaders: Record<string, string> & { etag: string },
  lengthBytes: number,
  read: ReadRange,
): Promise<Response> {
  const headers: Record<string, string> = { ...fileHeaders };
  // A request's `Cache-Control` concerns caches between client and server. `fetch` sends no-cache with every conditional request.
  const conditions = { 'if-none-match': c.req.header('if-none-match') };
  if (fresh(conditions, headers)) return new Response(null, { status: 304, headers });

  const range = rangeOf(c, fileHeaders.etag, lengthBytes);
  if (range === 'unsatisfiable') return rangeProblem(lengthBytes);
  const { start, end } = range ?? { start: 0, end: lengthBytes - 1 };
  if (range) headers['content-range'] = `bytes ${start}-${end}/${lengthBytes}`;
  headers['content-length'] = String(end - start + 1);
  const isBodyless = c.req.method === 'HEAD' || end < start;
  return new Response(isBodyless ? null : await read(start, end), { status: range ? 206 : 200, headers });
}

function rangeOf(
  c: Context<OriginEnv>,
  etag: string,
  lengthBytes: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const header = c.req.header('range');
  if (header === undefined) return undefined;
  const ifRange = c.req.header('if-range');
  // The condition is a date, or the tag of other bytes: the whole file is sent.
  if (ifRange !== undefined && ifRange !== etag) return undefined;
  const ranges = parseRange(lengthBytes, header);
  if (ranges === -1) return 'unsatisfiable';
  if (ranges === -2 || ranges.type !== 'bytes' || ranges.length !== 1) return undefined;
  return ranges[0];
}

/** Reads the body into memory if enough is free. The memory is given back when the response has been sent, or its client has gone. */
async function bodyOf(
  c: Context<OriginEnv>,
  file: OpenFile,
  memory: MemoryBudget,
  start: number,
  end: number,
): Promise<Body> {
  const lengthBytes = end - start + 1;
  const release = lengthBytes <= MAX_BUFFERED_BYTES ? memory.tryLease(lengthBytes) : undefined;
  if (!release) return file.stream(start, lengthBytes);
  const outgoing = c.env?.outgoing;
  if (!outgoing || outgoing.destroyed) release();
  else outgoing.once('close', release);
  return await file.read(start, lengthBytes);
}

function commonHeaders(name: string) {
  return {
    'content-type': name.endsWith('.json') ? 'application/json' : 'application/octet-stream',
    'accept-ranges': 'bytes',
    'x-content-type-options': 'nosniff',
  };
}

function notFound(c: Context<OriginEnv>): Response {
  return problemResponse(
    new SitecastError(
      'notFound',
      'SITECAST_NOT_FOUND',
      `there is no ${JSON.stringify(cutText(c.req.path, 200))}`,
    ),
  );
}

function rangeProblem(lengthBytes: number): Response {
  return problemResponse(
    new SitecastError(
      'badInput',
      'SITECAST_RANGE_UNSATISFIABLE',
      `the range lies beyond the ${lengthBytes} bytes of the file`,
    ),
    { 'content-range': `bytes */${lengthBytes}` },
  );
}
