import { createHash } from 'node:crypto';

/**
 * Who of a site's gateways fetches a chunk over the WAN: the one whose hash with the chunk is the highest (rendezvous hashing,
 * Thaler and Ravishankar 1998). All who count the same members agree; when one goes, only its chunks move.
 * @param ids of the members, in any order; at least one
 */
export function ownerOf(chunkHex: string, ids: readonly string[]): string {
  let owner = '';
  let highest = '';
  for (const id of ids) {
    const score = createHash('sha256').update(`${id}/${chunkHex}`).digest('hex');
    if (score > highest) [owner, highest] = [id, score];
  }
  return owner;
}
