import { createHash } from 'node:crypto';
import type { DelegatedRole, Delegations, SuccinctRoles } from './metadata.ts';
import type { RoleSigners } from './signing.ts';

/** A delegation that covers the target of a search. */
export interface MatchingDelegation {
  role: string;
  signers: RoleSigners;
  isTerminating: boolean;
}

/** The delegations that cover a target, in order of appearance (TUF 1.0 section 5.6.7.2). */
export function matchingDelegations(delegations: Delegations, target: string): MatchingDelegation[] {
  const { keys, roles, succinct_roles: bins } = delegations;
  if (bins) {
    const { keyids, threshold } = bins;
    return [{ role: binOf(bins, target), signers: { keys, keyids, threshold }, isTerminating: true }];
  }
  return (roles ?? [])
    .filter(role => covers(role, target))
    .map(({ name, keyids, threshold, terminating }) => ({
      role: name,
      signers: { keys, keyids, threshold },
      isTerminating: terminating,
    }));
}

function covers({ paths, path_hash_prefixes: prefixes }: DelegatedRole, target: string): boolean {
  if (paths) return paths.some(pattern => matchesPathPattern(pattern, target));
  const digest = createHash('sha256').update(target, 'utf8').digest('hex');
  return (prefixes ?? []).some(prefix => digest.startsWith(prefix));
}

/** PATHPATTERN of TUF 1.0 section 4.5: `*` and `?` don't cross a `/`; every other character matches itself. */
export function matchesPathPattern(pattern: string, target: string): boolean {
  const patterns = pattern.split('/');
  const parts = target.split('/');
  return (
    patterns.length === parts.length && patterns.every((each, index) => matchesPart(each, parts[index] ?? ''))
  );
}

// It backtracks to the last star only. A hostile pattern costs pattern × text steps at most.
function matchesPart(pattern: string, text: string): boolean {
  const wanted = Array.from(pattern);
  const given = Array.from(text);
  let at = 0;
  let star = -1;
  let starText = 0;
  for (let position = 0; position < given.length; ) {
    if (wanted[at] === '*') {
      star = at;
      starText = position;
      at += 1;
    } else if (at < wanted.length && (wanted[at] === '?' || wanted[at] === given[position])) {
      at += 1;
      position += 1;
    } else if (star >= 0) {
      at = star + 1;
      starText += 1;
      position = starText;
    } else {
      return false;
    }
  }
  return wanted.slice(at).every(char => char === '*');
}

/** The hash bin that a target falls into (TAP 15): the first bits of its name's SHA-256. */
function binOf({ bit_length: bits, name_prefix: prefix }: SuccinctRoles, target: string): string {
  const first = createHash('sha256').update(target, 'utf8').digest().readUInt32BE(0);
  const digits = (2 ** bits - 1).toString(16).length;
  return `${prefix}-${(first >>> (32 - bits)).toString(16).padStart(digits, '0')}`;
}
