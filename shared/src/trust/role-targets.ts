import type { TargetFile } from './metadata.ts';
import { hasTargetPath } from './names.ts';

/**
 * Bound of the targets of one delegated role; the origin lists 4,000 at most. Whoever holds that role's key can list more, and loses its
 * listing alone. The top-level targets have the bound of their bytes, which is some 75,000.
 */
export const MAX_DELEGATED_TARGETS = 20_000;
const SHA256 = /^[0-9a-f]{64}$/;

/** A target that can be fetched and served. */
export interface RoleTarget {
  name: string;
  sha256: string;
  file: TargetFile;
}

/** Targets of one role that nobody serves, however right the rest is: bad input of whoever signs for the role. */
export interface Omitted {
  role: string;
  count: number;
  /** The name of the first. */
  first: string;
}

/**
 * Tells what a role lists from what has no path, no sha256, or isn't the role's to list. Its signature says nothing about that, and one
 * such name must cost that name alone.
 * @param role `targets` for the top-level role, which may list any folder; others list their own alone
 */
export function roleTargets(
  role: string,
  targets: Readonly<Record<string, TargetFile>>,
): { listed: RoleTarget[]; omitted: Omitted | undefined } {
  const listed: RoleTarget[] = [];
  const omitted: string[] = [];
  const entries = Object.entries(targets);
  const isTooLong = role !== 'targets' && entries.length > MAX_DELEGATED_TARGETS;
  for (const [name, file] of entries) {
    const { sha256 } = file.hashes;
    const isOfRole = role === 'targets' || name.startsWith(`${role}/`);
    const isServable = isOfRole && hasTargetPath(name) && !name.includes('..');
    if (isTooLong || !isServable || sha256 === undefined || !SHA256.test(sha256)) omitted.push(name);
    else listed.push({ name, sha256, file });
  }
  const [first] = omitted;
  return { listed, omitted: first === undefined ? undefined : { role, count: omitted.length, first } };
}
