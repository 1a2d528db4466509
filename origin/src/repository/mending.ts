import { countIds } from '@sitecast/shared/content';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { findReplacements } from './check-chunks.ts';
import { readListing } from './check-targets.ts';
import { publishChunks, syncStaged } from './commit.ts';
import type { Committed } from './committed.ts';
import { targetSource } from './target-source.ts';

interface MendingDeps {
  files: Files;
  chunks: Chunks;
  staged: StagedFiles;
}

/**
 * Puts staged chunks in the place of those that published releases have lost. Each is right, and belongs where it goes, whatever
 * becomes of the others.
 * @returns how many
 */
export async function mendChunks(
  { files, chunks, staged }: MendingDeps,
  committed: Committed,
): Promise<number> {
  const { chunks: stagedCount } = await chunks.totals();
  if (stagedCount === 0) return 0;
  const listing = readListing(committed.targets.signed);
  const source = targetSource(files, staged, listing);
  const found = (await findReplacements(listing, { source, chunks })).bytes();
  await syncStaged(files, found);
  await publishChunks(files, chunks, found);
  return countIds(found);
}
