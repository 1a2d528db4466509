import { ChunkIdSet, ChunkIndex } from '@sitecast/shared/content';
import type { ChunkStaging } from '../staging/ports.ts';
import { findChunks } from './check-chunks.ts';
import type { Committed } from './committed.ts';
import { publishedIndexes } from './delta-listing.ts';
import { publishedFiles } from './listing.ts';
import type { PublishedChunks, RepositoryStore } from './repository-store.ts';
import { ROLES, type Role } from './roles.ts';
import type { TargetSourceDeps } from './target-source.ts';

interface RepairDeps extends TargetSourceDeps {
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
}

/**
 * Puts staged chunks in the place of those that published releases and deltas have lost. Each is right, and belongs where it goes,
 * whatever becomes of the others. Where an index is lost as well, its chunks are passed over.
 * @returns how many
 */
export async function repairChunks(deps: RepairDeps, committed: Committed): Promise<number> {
  const { chunks, publishedChunks, readPublished } = deps;
  if ((await chunks.totals()).chunks === 0) return 0;
  const found = new ChunkIdSet();
  for (const file of publishedIndexes(committed)) {
    const bytes = await readPublished(file);
    if (bytes) await findChunks({ index: file }, ChunkIndex.decode(bytes), chunks, found);
  }
  await publishedChunks.repair(found.bytes());
  return found.size;
}

/**
 * Puts staged target files in the place of published ones that are lost or damaged.
 * @returns their names
 */
export async function repairFiles(
  { published, staged }: Pick<RepairDeps, 'published' | 'staged'>,
  committed: Committed,
): Promise<string[]> {
  const repaired: string[] = [];
  for (const file of publishedFiles(committed)) {
    const bytes = await staged.read(file.sha256);
    if (bytes?.length !== file.lengthBytes || !(await published.repairTarget(file, bytes))) continue;
    await staged.remove(file.sha256);
    repaired.push(file.name);
  }
  return repaired;
}

/**
 * Writes metadata anew that the store no longer holds as it was published: this process knows its bytes.
 * @returns the roles
 */
export async function repairMetadata(published: RepositoryStore, committed: Committed): Promise<Role[]> {
  const repaired: Role[] = [];
  for (const role of ROLES) {
    const { bytes, signed } = committed[role];
    if (await published.repairMetadata({ role, version: signed.version, bytes })) repaired.push(role);
  }
  return repaired;
}
