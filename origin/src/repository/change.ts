import { SitecastError } from '@sitecast/shared/errors';
import { type Metadata, type MetadataType, parseMetadata } from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';
import { errorFields, type Log } from '../log.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { checkExpiry, checkNextVersion, checkRoot, checkTargetsMetadata } from './check-metadata.ts';
import { checkListing, type ListingChange, type ReleaseName } from './check-releases.ts';
import { type CommitPlan, stagedTarget } from './commit-plan.ts';
import type { Committed } from './committed.ts';
import { NOTHING_LISTED, readListing } from './listing.ts';
import type { OnlineSigner } from './online-signer.ts';
import { notInitialised } from './refusal.ts';
import type { VersionFloor } from './repository-store.ts';
import { maxBytesOf, type Role } from './roles.ts';
import { targetSource, type TargetSourceDeps } from './target-source.ts';

/** New signed metadata, as the exact bytes that were signed. */
export interface Change {
  root?: Uint8Array | undefined;
  targets?: Uint8Array | undefined;
  /** Checks everything, but changes nothing. */
  isDryRun?: boolean | undefined;
  /** Called when all checks have passed, before anything becomes visible. An error that it throws ends the change. */
  beforeCommit?: ((result: ChangeResult) => Promise<void>) | undefined;
}

export interface ChangeResult {
  versions: Record<Role, number>;
  added: ReleaseName[];
  removed: { product: string; counter: number }[];
  /** Products whose file is new. */
  products: string[];
  /** Of the deltas that operators have signed. */
  deltas: ListingChange['deltas'];
  /** True if exactly these bytes were published already. */
  isAlreadyDone: boolean;
}

/** The metadata of a change that isn't published yet. */
interface GivenMetadata {
  root: Metadata<'root'> | undefined;
  targets: Metadata<'targets'> | undefined;
}

interface PlanDeps extends TargetSourceDeps {
  chunks: ChunkStaging;
  keys: OnlineKeys;
  signer: OnlineSigner;
  floor: VersionFloor;
  now: () => number;
}

/** @throws SITECAST_METADATA_TOO_LARGE, and what `parseMetadata` throws */
export function readGiven(
  { root, targets }: Pick<Change, 'root' | 'targets'>,
  previous: Committed | undefined,
): GivenMetadata {
  return {
    root: readNew('root', root, previous?.root),
    targets: readNew('targets', targets, previous?.targets),
  };
}

/**
 * Checks a change, and signs the state that it leads to.
 * @throws the codes of docs/ERRORS.md under "Publishing"
 */
export async function planChange(
  deps: PlanDeps,
  previous: Committed | undefined,
  given: GivenMetadata,
): Promise<CommitPlan & { change: ListingChange }> {
  const { chunks, signer, floor } = deps;
  const root = given.root ?? previous?.root;
  const targets = given.targets ?? previous?.targets;
  if (!root || !targets) throw notInitialised();
  checkMetadata(deps, previous, given, { root, targets });
  const before = previous ? readListing(previous.targets.signed) : NOTHING_LISTED;
  const source = targetSource(deps, before);
  const change = await checkListing(before, readListing(targets.signed), { source, chunks });
  const { next, targetFiles, ...signed } = await signer.sign({ root, targets, previous, floor });
  return {
    change,
    previous,
    next,
    targetFiles: [...change.newFiles.map(stagedTarget), ...targetFiles],
    ...signed,
    chunks: change.chunks.bytes(),
  };
}

function checkMetadata(
  { keys, now }: Pick<PlanDeps, 'keys' | 'now'>,
  previous: Committed | undefined,
  given: GivenMetadata,
  { root, targets }: Pick<Committed, 'root' | 'targets'>,
): void {
  if (given.root) checkRoot(given.root, previous?.root, keys);
  if (given.targets) checkNextVersion('targets', given.targets, previous?.targets);
  for (const role of ['root', 'targets'] as const) if (given[role]) checkExpiry(role, given[role], now());
  checkTargetsMetadata(targets, root, previous?.targets, keys);
}

/** @returns undefined if these bytes are published already */
function readNew<T extends MetadataType & Role>(
  role: T,
  bytes: Uint8Array | undefined,
  published: Metadata<T> | undefined,
): Metadata<T> | undefined {
  if (bytes === undefined) return undefined;
  if (published && Buffer.compare(published.bytes, bytes) === 0) return undefined;
  if (bytes.length > maxBytesOf(role)) {
    throw new SitecastError(
      'tooLarge',
      'SITECAST_METADATA_TOO_LARGE',
      `${role} metadata has at most ${maxBytesOf(role)} bytes: clients take no more`,
      { data: { role, maxBytes: maxBytesOf(role), lengthBytes: bytes.length } },
    );
  }
  return parseMetadata(bytes, role);
}

/** Deletes published files from staging. A copy that stays is deleted later with other old ones. */
export async function forgetStaged(
  { staged, log }: { staged: FileStaging; log: Log },
  files: readonly { sha256: string }[],
): Promise<void> {
  for (const { sha256 } of files)
    await staged.remove(sha256).catch((error: unknown) => log.warn(errorFields(error), 'left in staging'));
}
