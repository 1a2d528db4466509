import { hash } from 'node:crypto';
import { SitecastError } from '../errors.ts';

/** Length of a chunk id, in bytes: a SHA-256 digest. */
export const CHUNK_ID_BYTES = 32;

/**
 * Names a chunk: the SHA-256 of its plain bytes, 32 of them. Often a view into a longer buffer (an index, a batch), so
 * that 1.6 million of them cost 32 bytes each; copy it to keep it longer than its owner.
 */
export type ChunkId = Uint8Array;

const HEX_ID = /^[0-9a-f]{64}$/;

/** SHA-256 in one call: `crypto.hash` spares the Hash object that `createHash` makes for every chunk. */
export function sha256(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer');
}

/** The id of a chunk with these plain bytes. */
export function chunkIdOf(plain: Uint8Array): ChunkId {
  return sha256(plain);
}

/** 64 lower-case hexadecimal digits. */
export function chunkIdToHex(id: ChunkId): string {
  return viewOf(id).toString('hex');
}

/**
 * The id that 64 lower-case hexadecimal digits name.
 * @throws SITECAST_CHUNK_ID_INVALID for anything else
 */
export function chunkIdFromHex(hex: string): ChunkId {
  if (!HEX_ID.test(hex)) throw invalidId('a chunk id is 64 lower-case hexadecimal digits');
  return Buffer.from(hex, 'hex');
}

export function sameChunkId(one: ChunkId, other: ChunkId): boolean {
  return viewOf(one).equals(other);
}

/**
 * Where a chunk lies below the root of a store, as casync and desync lay it out: `<first 4 hex>/<64 hex>.cacnk`.
 * The same path follows `/chunks/` in a URL.
 */
export function chunkPath(id: ChunkId): string {
  if (id.length !== CHUNK_ID_BYTES) throw invalidId(`a chunk id has ${CHUNK_ID_BYTES} bytes`);
  const hex = chunkIdToHex(id);
  return `${hex.slice(0, 4)}/${hex}.cacnk`;
}

/** How many ids lie in a buffer of ids, one after the other. */
export function countIds(ids: Uint8Array): number {
  if (ids.length % CHUNK_ID_BYTES !== 0)
    throw invalidId(`a list of chunk ids is a multiple of ${CHUNK_ID_BYTES} bytes, not ${ids.length}`);
  return ids.length / CHUNK_ID_BYTES;
}

/** The ids in a buffer of ids: views into it. */
export function* eachId(ids: Uint8Array): Generator<ChunkId> {
  const count = countIds(ids);
  for (let at = 0; at < count; at++) yield ids.subarray(at * CHUNK_ID_BYTES, (at + 1) * CHUNK_ID_BYTES);
}

function invalidId(message: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_CHUNK_ID_INVALID', message);
}

/** The same bytes as a Buffer, without copying. */
function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
