import { type ErrorCode, SitecastError } from '../errors.ts';
import { CHUNK_ID_BYTES, type ChunkId } from './chunk-id.ts';
import { MAX_BATCH_BYTES, MAX_BATCH_CHUNKS, MAX_FRAME_BYTES } from './limits.ts';

// The body of an upload: for each chunk its id (32 bytes), the length of its frame (u32, little-endian), the frame.

/** What comes before each frame in a batch, in bytes. */
export const BATCH_HEAD_BYTES = CHUNK_ID_BYTES + 4;

/** One chunk of a batch; both are views into it. */
export interface BatchEntry {
  readonly id: ChunkId;
  readonly frame: Uint8Array;
}

/** Writes what comes before a frame whose bytes begin at `at + BATCH_HEAD_BYTES`. */
export function writeBatchHead(target: Buffer, at: number, id: ChunkId, frameBytes: number): void {
  target.set(id, at);
  target.writeUInt32LE(frameBytes, at + CHUNK_ID_BYTES);
}

/**
 * Puts frames into batches of at most `maxBytes`, in their order.
 * @param maxBytes at most MAX_BATCH_BYTES, and no less than the longest frame with its head
 */
export async function* batchesOf(
  entries: Iterable<BatchEntry> | AsyncIterable<BatchEntry>,
  maxBytes: number,
): AsyncGenerator<Buffer<ArrayBuffer>> {
  let held: BatchEntry[] = [];
  let heldBytes = 0;
  for await (const entry of entries) {
    const entryBytes = BATCH_HEAD_BYTES + entry.frame.length;
    if (heldBytes + entryBytes > maxBytes || held.length === MAX_BATCH_CHUNKS) {
      yield joined(held, heldBytes);
      [held, heldBytes] = [[], 0];
    }
    held.push(entry);
    heldBytes += entryBytes;
  }
  if (held.length > 0) yield joined(held, heldBytes);
}

/** In memory of its own, which may be handed to a thread. */
function joined(entries: readonly BatchEntry[], lengthBytes: number): Buffer<ArrayBuffer> {
  const batch = Buffer.from(new ArrayBuffer(lengthBytes));
  let at = 0;
  for (const { id, frame } of entries) {
    writeBatchHead(batch, at, id, frame.length);
    batch.set(frame, at + BATCH_HEAD_BYTES);
    at += BATCH_HEAD_BYTES + frame.length;
  }
  return batch;
}

/**
 * Takes a batch apart. All of its framing is checked before anything is returned; the frames themselves are not (that's
 * `verifyFrame`).
 * @throws SITECAST_BATCH_TOO_LARGE beyond MAX_BATCH_BYTES or MAX_BATCH_CHUNKS, SITECAST_BATCH_MALFORMED
 */
export function decodeBatch(bytes: Uint8Array): BatchEntry[] {
  if (bytes.length > MAX_BATCH_BYTES)
    throw refused('tooLarge', 'SITECAST_BATCH_TOO_LARGE', `a batch holds at most ${MAX_BATCH_BYTES} bytes`);
  const batch = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: BatchEntry[] = [];
  for (let at = 0; at < batch.length; ) {
    if (entries.length === MAX_BATCH_CHUNKS)
      throw refused(
        'tooLarge',
        'SITECAST_BATCH_TOO_LARGE',
        `a batch holds at most ${MAX_BATCH_CHUNKS} chunks`,
      );
    const frameAt = at + BATCH_HEAD_BYTES;
    if (frameAt > batch.length) throw malformed('it ends within an id or a length');
    const frameBytes = batch.readUInt32LE(at + CHUNK_ID_BYTES);
    if (frameBytes === 0 || frameBytes > MAX_FRAME_BYTES) throw malformed(`a frame of ${frameBytes} bytes`);
    if (frameBytes > batch.length - frameAt) throw malformed('it ends within a frame');
    entries.push({
      id: batch.subarray(at, at + CHUNK_ID_BYTES),
      frame: batch.subarray(frameAt, frameAt + frameBytes),
    });
    at = frameAt + frameBytes;
  }
  return entries;
}

function malformed(what: string): SitecastError {
  return refused('badInput', 'SITECAST_BATCH_MALFORMED', `not a batch of chunks: ${what}`);
}

function refused(kind: 'badInput' | 'tooLarge', code: ErrorCode, message: string): SitecastError {
  return new SitecastError(kind, code, message);
}
