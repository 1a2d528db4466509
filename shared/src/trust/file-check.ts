import { createHash, timingSafeEqual } from 'node:crypto';
import type { FileHashes } from './metadata.ts';

const KNOWN_ALGORITHMS = ['sha256', 'sha512'] as const;

/**
 * Compares bytes with what signed metadata says about them.
 * @returns what doesn't match, in words; undefined if all does
 */
export function findMismatch(
  bytes: Uint8Array,
  { length, hashes }: { length?: number; hashes?: FileHashes },
): string | undefined {
  if (length !== undefined && bytes.length !== length) return `${bytes.length} bytes instead of ${length}`;
  if (hashes === undefined) return undefined;
  const checkable = KNOWN_ALGORITHMS.filter(algorithm => Object.hasOwn(hashes, algorithm));
  if (checkable.length === 0) return 'no digest of an algorithm known here';
  for (const algorithm of checkable) {
    const digest = createHash(algorithm).update(bytes).digest();
    const wanted = Buffer.from(hashes[algorithm] ?? '', 'hex');
    if (wanted.length !== digest.length || !timingSafeEqual(wanted, digest))
      return `its ${algorithm} digest differs`;
  }
  return undefined;
}

/** The digest that names a target file in a consistent snapshot; undefined if none is of a known algorithm. */
export function namingDigest(hashes: FileHashes): string | undefined {
  for (const algorithm of KNOWN_ALGORITHMS) {
    const digest = Object.hasOwn(hashes, algorithm) ? hashes[algorithm] : undefined;
    if (digest !== undefined && /^[0-9a-f]+$/i.test(digest)) return digest;
  }
  return undefined;
}
