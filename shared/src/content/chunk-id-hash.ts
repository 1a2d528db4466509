import { randomFillSync } from 'node:crypto';
import { CHUNK_ID_BYTES, type ChunkId } from './chunk-id.ts';

/** One word for each value of each byte of an id. Nobody outside of this process knows them. */
const WORDS = new Uint32Array(CHUNK_ID_BYTES * 256);
randomFillSync(WORDS);

/**
 * Hash of an id for a table in memory: 32 bits, all of them random, different in each process. Ids are SHA-256 only if who sent them was
 * honest; others choose ids, but cannot choose ones that lie together in a table. This is simple tabulation, with which linear probing
 * takes constant time for any set of ids (Pătraşcu and Thorup, "The power of simple tabulation hashing"). A secret factor is not enough:
 * ids that differ only in the upper bits of their words collide under every factor.
 */
export function chunkIdHash(id: ChunkId): number {
  let hash = 0;
  for (let at = 0; at < CHUNK_ID_BYTES; at += 1) hash ^= WORDS[at * 256 + (id[at] ?? 0)] ?? 0;
  return hash >>> 0;
}
