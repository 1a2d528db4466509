import { SitecastError } from '@sitecast/shared/errors';
import { canonicalBytes, type Metadata, type SignedRoot, type SignedTargets } from '@sitecast/shared/trust';
import type { Draft } from './draft.ts';

/** The state that a draft is compared with. */
interface Base {
  root: SignedRoot;
  targets: SignedTargets;
}

interface BaseCheck {
  /** True if the origin was asked just now; else the stored state may be older than the published one. */
  isNewest: boolean;
}

/**
 * Refuses a draft that isn't the next version. Its signer would sign an outdated state, or one that can't be compared here with
 * the state before. A root comes right after the trusted one, because the trusted one's keys sign it. Without a network
 * targets may be further ahead than by one.
 * @returns false if the draft is published already
 * @throws SITECAST_VERSION_CONFLICT (conflict)
 */
export function requireNext(draft: Draft, trusted: Base, { isNewest }: BaseCheck): boolean {
  const { root, targets } = draft;
  const isNewRoot = root !== undefined && !isSame(root, trusted.root);
  if (isNewRoot) demandNext('root', root, trusted.root.version, true);
  const isNewTargets = targets !== undefined && !isSame(targets, trusted.targets);
  if (isNewTargets) demandNext('targets', targets, trusted.targets.version, isNewest);
  return isNewRoot || isNewTargets;
}

/**
 * Refuses a first root together with targets that aren't the first version. A release key's signature on those targets would also be valid
 * in the repository whose targets they follow.
 * @throws SITECAST_VERSION_CONFLICT (conflict)
 */
export function requireFirst({ targets }: Draft): void {
  if (targets && targets.signed.version !== 1) throw notNext('targets', targets.signed.version, 1);
}

function demandNext(role: string, { signed }: Metadata, trusted: number, isExact: boolean): void {
  const expected = trusted + 1;
  if (signed.version === expected || (!isExact && signed.version > expected)) return;
  throw notNext(role, signed.version, expected);
}

function isSame(drafted: Metadata, trusted: SignedRoot | SignedTargets): boolean {
  return Buffer.compare(canonicalBytes(drafted.signed), canonicalBytes(trusted)) === 0;
}

function notNext(role: string, found: number, expected: number): SitecastError {
  const isOld = found < expected;
  return new SitecastError(
    'conflict',
    'SITECAST_VERSION_CONFLICT',
    isOld
      ? `the draft was made before ${role} ${expected - 1} was published: it has version ${found}, the next is ${expected}`
      : `the draft has ${role} ${found}, and the newest that is known here is ${expected - 1}`,
    {
      hint: isOld
        ? "don't sign it; have it drafted anew from what is published now"
        : 'run this with --origin, so that it can be compared with what is published now',
      data: { role, expected, found },
    },
  );
}
