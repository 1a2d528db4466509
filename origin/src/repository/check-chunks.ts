import { plural } from '@sitecast/shared/text';
import { ChunkIdSet, type ChunkIndex, chunkIdToHex } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { ChunkStaging } from '../staging/ports.ts';
import type { ListedRelease } from './listing.ts';
import { refused } from './refusal.ts';
import { MAX_COMMIT_CHUNKS } from './repository-store.ts';

/** How many chunks are looked up at once. */
const CHECK_CHUNKS = 4096;
/** How many missing chunks an error names; it always gives their total. */
const MAX_NAMED_CHUNKS = 100;

/**
 * Looks for every chunk that a listed index names, and adds the staged ones to `found`.
 * @returns those that are missing or wrong
 */
export async function findChunks(
  listed: Pick<ListedRelease, 'index'>,
  index: ChunkIndex,
  chunks: ChunkStaging,
  found: ChunkIdSet,
): Promise<ChunkIdSet> {
  const missing = new ChunkIdSet();
  for (let from = 0; from < index.count; from += CHECK_CHUNKS) {
    const places = Array.from({ length: Math.min(CHECK_CHUNKS, index.count - from) }, (_, at) => from + at);
    const ids = places.map(at => index.idAt(at));
    const lengths = Uint32Array.from(places, at => index.lengthOf(at));
    const states = await chunks.check({ ids: Buffer.concat(ids), lengths });
    for (const [at, id] of ids.entries()) {
      const state = states[at];
      if (state === 'missing') missing.add(id);
      if (state === 'staged') found.add(id);
      if (state === 'wrongLength') {
        throw indexMismatch(listed, `gives chunk ${chunkIdToHex(id)} a length that it doesn't have`);
      }
    }
    if (found.size > MAX_COMMIT_CHUNKS) throw tooManyChunks();
  }
  return missing;
}

export function indexMismatch({ index }: Pick<ListedRelease, 'index'>, what: string): SitecastError {
  return refused('badInput', 'SITECAST_INDEX_MISMATCH', `${index.name} ${what}`, { target: index.name });
}

export function chunksMissing({ product, counter }: ListedRelease, missing: ChunkIdSet): SitecastError {
  const bytes = missing.bytes();
  const named = Math.min(missing.size, MAX_NAMED_CHUNKS);
  const ids = Array.from({ length: named }, (_, at) => bytes.subarray(at * 32, at * 32 + 32).toString('hex'));
  return refused(
    'conflict',
    'SITECAST_CHUNKS_MISSING',
    `${plural(missing.size, 'chunk')} of release ${counter} of ${product} ${missing.size === 1 ? 'is' : 'are'} not there, or not right`,
    { product, counter, count: missing.size, ids },
    'Upload them again; what is there already is kept.',
  );
}

function tooManyChunks(): SitecastError {
  return refused(
    'tooLarge',
    'SITECAST_CHANGE_TOO_LARGE',
    `more than ${MAX_COMMIT_CHUNKS} new chunks in one change`,
    {
      maxChunks: MAX_COMMIT_CHUNKS,
    },
  );
}
