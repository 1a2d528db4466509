import { SitecastError } from '../../errors.ts';
import type { Chunk } from '../chunk.ts';
import { type ChunkId, chunkIdToHex } from '../chunk-id.ts';
import { MAX_FRAME_BYTES } from '../limits.ts';

export interface ChunkRequest {
  /** Gives up with the signal's reason. */
  readonly signal?: AbortSignal;
  /** The chunk's plain length, where an index says it. */
  readonly lengthBytes?: number;
  /**
   * Memory for the plain bytes: no shorter than the chunk. A store that has them as a frame, or on a disk, may put them there; then it
   * belongs to the chunk that is given.
   */
  readonly into?: Uint8Array;
  /** Called with the bytes of the bodies that a server sends for it, as soon as that is known: also of answers that are of no use. */
  readonly onSent?: (lengthBytes: number) => void;
  /** Sent along to a store that is reached over HTTP. */
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * The one port for chunks, whether they lie in a folder, on a web server, on a gateway or with a peer. Verifying, coalescing, failover
 * and the like wrap one store in another. `conformance.ts` has the tests that every store passes.
 */
export interface ChunkStore {
  /** For messages and logs: a path, a URL. */
  readonly name: string;

  /** @throws SITECAST_STORE_UNREACHABLE when the store can't be asked */
  has(id: ChunkId, request?: ChunkRequest): Promise<boolean>;

  /**
   * The chunk as the store holds it: not verified, unless the store says that it does.
   * @throws SITECAST_CHUNK_NOT_FOUND, SITECAST_STORE_UNREACHABLE, SITECAST_FRAME_TOO_LARGE
   */
  get(id: ChunkId, request?: ChunkRequest): Promise<Chunk>;
}

/** A store that takes chunks. */
export interface WritableChunkStore extends ChunkStore {
  /**
   * Stores a chunk that the caller has verified; afterwards `get` finds it, but a power cut may still lose it.
   * @returns false if it was there already
   */
  put(chunk: Chunk): Promise<boolean>;

  /** Makes all that was put until now survive a power cut. */
  sync(): Promise<void>;
}

/** The error for a chunk that a store lacks. */
export function chunkNotFound(id: ChunkId, store: Pick<ChunkStore, 'name'>, cause?: unknown): SitecastError {
  const hex = chunkIdToHex(id);
  return new SitecastError('notFound', 'SITECAST_CHUNK_NOT_FOUND', `${store.name} has no chunk ${hex}`, {
    data: { id: hex, store: store.name },
    cause,
  });
}

/** The error for a frame that is longer than that of any chunk, or of one as long as this. */
export function frameTooLarge(id: ChunkId, cause?: unknown, maxBytes = MAX_FRAME_BYTES): SitecastError {
  const hex = chunkIdToHex(id);
  return new SitecastError(
    'tooLarge',
    'SITECAST_FRAME_TOO_LARGE',
    `the frame of chunk ${hex} is longer than ${maxBytes} bytes`,
    { data: { id: hex, maxBytes }, cause },
  );
}

/** The store was asked, has answered, and doesn't give the chunk: it lacks it, or can't have it now. */
export function isRefusal({ code, data }: SitecastError): boolean {
  return (
    code === 'SITECAST_CHUNK_NOT_FOUND' || typeof data.statusCode === 'number' || data.isRefused === true
  );
}

/** The store lacks the chunk: that says nothing against it. */
export function isNotFound(error: unknown): error is SitecastError {
  return error instanceof SitecastError && error.code === 'SITECAST_CHUNK_NOT_FOUND';
}
