import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  chunkPath,
  MAX_FRAME_BYTES,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { HttpFetcher } from '@sitecast/shared/trust';
import { FORWARDED } from './http-upstream.ts';

/** A chunk may take that long; one that drips is given up. */
const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_IDLE_TIMEOUT_MS = 15_000;

/** The chunks of one upstream, over HTTP. Nothing is verified here. */
export class HttpChunks implements ChunkStore {
  readonly name: string;
  readonly #fetcher: HttpFetcher;

  constructor(
    url: string,
    { timeoutMs, idleTimeoutMs }: { timeoutMs?: number; idleTimeoutMs?: number } = {},
  ) {
    this.name = url;
    this.#fetcher = new HttpFetcher(`${url.replace(/\/*$/, '')}/chunks`, {
      headers: FORWARDED,
      timeoutMs: timeoutMs ?? DEFAULT_TIMEOUT_MS,
      idleTimeoutMs: idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS,
    });
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    try {
      await this.get(id, request);
      return true;
    } catch (error) {
      if (error instanceof SitecastError && error.kind === 'notFound') return false;
      throw error;
    }
  }

  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    const frame = await this.#fetcher.fetch(chunkPath(id), {
      maxBytes: MAX_FRAME_BYTES,
      signal: request.signal,
    });
    if (frame) return Chunk.fromFrame(id, frame);
    throw new SitecastError('notFound', 'SITECAST_CHUNK_NOT_FOUND', `${this.name} has no such chunk`, {
      data: { id: chunkIdToHex(id), store: this.name },
    });
  }
}
