import { createHash } from 'node:crypto';
import { keyIdentityOf, type TufKey, verifySignature } from './keys.ts';
import { lruCache } from '../bounded/lru-cache.ts';

/** Whether `signatureHex` is a signature of `message` by `key`: `verifySignature`, or something that says the same. */
export type VerifySignature = (key: TufKey, message: Uint8Array, signatureHex: string) => boolean;

/** Signatures that were found right: those of a few sets of metadata, 32 bytes of hash each. */
export const MAX_REMEMBERED_SIGNATURES = 256;

/**
 * Verifies each signature once. Whether one is right depends on key, message and signature alone, and by the hash over all three
 * it's known again; whose key may sign for what isn't remembered, and is asked each time. A wrong one is never remembered, so
 * that nobody can fill the memory with rubbish. For whoever reads the same metadata in several places.
 * @param verify what is asked about a signature that isn't known
 */
export function rememberingVerifier(verify: VerifySignature = verifySignature): VerifySignature {
  const right = lruCache<string, true>({ max: MAX_REMEMBERED_SIGNATURES });
  return (key, message, signatureHex) => {
    const identity = keyIdentityOf(key);
    if (identity === undefined) return false;
    const name = createHash('sha256')
      // Lengths, so that no end of one part passes for the beginning of the next.
      .update(`${identity.length} ${identity} ${signatureHex.length} ${signatureHex} `)
      .update(message)
      .digest('base64');
    if (right.get(name)) return true;
    if (!verify(key, message, signatureHex)) return false;
    right.set(name, true);
    return true;
  };
}
