import { type Metadata } from '@sitecast/shared/trust';
import { type Committed, sha256Hex } from './committed.ts';
import type { ListedFile } from './listing.ts';
import { changedRoles, higherOf, onlineVersions } from './online-roles.ts';
import type { Commit, LeapNote, MetadataFile, NewTarget, VersionFloor } from './repository-store.ts';
import type { Role } from './roles.ts';

/** A change of the repository that has passed its checks and is signed. */
export interface CommitPlan {
  previous: Committed | undefined;
  next: Committed;
  /** Roots between the previous one and the next, in order. */
  rootsBetween?: readonly Metadata<'root'>[];
  targetFiles: readonly NewTarget[];
  /** Whether rollout files that waited for a key are among them. */
  publishesDeferred?: boolean;
  /** Ids of the staged chunks that the new releases need, 32 bytes each, none twice. */
  chunks?: Uint8Array;
  /** By how much the clock had leapt when the next timestamp was signed; undefined if others had signed it. */
  leap?: LeapNote | undefined;
}

/**
 * The stored files that a plan changes.
 * @param floor versions that are used up already
 */
export function commitOf(
  { previous, next, rootsBetween = [], ...plan }: CommitPlan,
  floor: VersionFloor,
): Commit {
  const changed = changedRoles(previous, next);
  const signed = changed.filter(role => role !== 'root' && role !== 'timestamp');
  return {
    timestamp: next.timestamp.bytes,
    newRoot: changed.includes('root') ? fileOf('root', next.root) : undefined,
    metadata: [
      ...rootsBetween.map(root => fileOf('root', root)),
      ...signed.map(role => fileOf(role, next[role])),
    ],
    targets: plan.targetFiles,
    chunks: plan.chunks ?? new Uint8Array(),
    usedVersions: higherOf(onlineVersions(next), floor),
    leap: plan.leap,
  };
}

/** A target file that lies in staging. */
export function stagedTarget({ name, sha256 }: ListedFile): NewTarget {
  return { name, sha256 };
}

/** @param byName as in `rollouts/camera.json` */
export function targetFilesOf(byName: ReadonlyMap<string, Buffer>): (NewTarget & { bytes: Buffer })[] {
  return [...byName].map(([name, bytes]) => ({ name, sha256: sha256Hex(bytes), bytes }));
}

function fileOf(role: Role, { signed, bytes }: Metadata): MetadataFile {
  return { role, version: signed.version, bytes };
}
