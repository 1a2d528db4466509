import { countIds } from '@sitecast/shared/content';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { findReplacements } from './check-chunks.ts';
import { readListing } from './check-targets.ts';
import { publishChunks, syncStaged } from './commit.ts';
import { type Committed, maxBytesOf, metadataFile, ROLES, type Role, TIMESTAMP } from './committed.ts';
import { publishedFiles, readRight, setFileAside } from './published-files.ts';
import { targetSource, type TargetSourceDeps } from './target-source.ts';

interface MendingDeps extends Pick<TargetSourceDeps, 'readPublished'> {
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
  { files, chunks, staged, readPublished }: MendingDeps,
  committed: Committed,
): Promise<number> {
  const { chunks: stagedCount } = await chunks.totals();
  if (stagedCount === 0) return 0;
  const listing = readListing(committed.targets.signed);
  const source = targetSource({ files, staged, published: listing, readPublished });
  const found = (await findReplacements(listing, { source, chunks })).bytes();
  await syncStaged(files, found);
  await publishChunks(files, chunks, found);
  return countIds(found);
}

/**
 * Puts staged target files in the place of published ones that are lost or damaged.
 * @returns their names
 */
export async function mendFiles(
  { files, staged }: Pick<MendingDeps, 'files' | 'staged'>,
  committed: Committed,
): Promise<string[]> {
  const mended: string[] = [];
  for (const file of publishedFiles(committed)) {
    if (!staged.has(file.sha256) || (await readRight(files, file))) continue;
    const bytes = await staged.read(file.sha256);
    if (bytes?.length !== file.lengthBytes) continue;
    await setFileAside(files, file.path);
    await files.writeDurably(file.path, bytes);
    await staged.remove(file.sha256);
    mended.push(file.name);
  }
  return mended;
}

/**
 * Writes metadata anew that the disk no longer holds as it was published: this process knows its bytes.
 * @returns the roles
 */
export async function mendMetadata(files: Files, committed: Committed): Promise<Role[]> {
  const mended: Role[] = [];
  for (const role of ROLES) {
    const { bytes, signed } = committed[role];
    const path = role === 'timestamp' ? TIMESTAMP : metadataFile(role, signed.version);
    const found = await readOrUndefined(files, path, maxBytesOf(role));
    if (found && Buffer.compare(found, bytes) === 0) continue;
    await setFileAside(files, path);
    await files.writeDurably(path, bytes);
    mended.push(role);
  }
  return mended;
}
