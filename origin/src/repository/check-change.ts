import type { Metadata } from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import type { GivenMetadata } from './change.ts';
import { checkListing, type ListingChange } from './check-releases.ts';
import { checkExpiry, checkNextVersion, checkRoot } from './check-root.ts';
import { checkTargetsMetadata, type Listing, readListing } from './check-targets.ts';
import type { Committed } from './committed.ts';
import { targetSource, type TargetSourceDeps } from './target-source.ts';

interface ChangeDeps extends Pick<TargetSourceDeps, 'readPublished'> {
  files: Files;
  chunks: Chunks;
  staged: StagedFiles;
  keys: OnlineKeys;
  now: () => number;
}

interface WantedState {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
}

const NOTHING_LISTED: Listing = { releases: new Map(), products: new Map() };

/**
 * All checks of a change.
 * @param wanted root and targets as they would be
 * @throws the codes of docs/ERRORS.md under "Publishing"
 */
export async function checkChange(
  { files, chunks, staged, keys, readPublished, now }: ChangeDeps,
  previous: Committed | undefined,
  { root, targets }: WantedState,
  given: GivenMetadata,
): Promise<ListingChange> {
  if (given.root) checkRoot(given.root, previous?.root, keys);
  if (given.targets) checkNextVersion('targets', given.targets, previous?.targets);
  for (const role of ['root', 'targets'] as const) if (given[role]) checkExpiry(role, given[role], now());
  checkTargetsMetadata(targets, root, previous?.targets, keys);
  const before = previous ? readListing(previous.targets.signed) : NOTHING_LISTED;
  return await checkListing(before, readListing(targets.signed), {
    source: targetSource({ files, staged, published: before, readPublished }),
    chunks,
  });
}
