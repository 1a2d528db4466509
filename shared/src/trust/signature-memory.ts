import { createHash } from 'node:crypto';
import { keyIdentityOf, type TufKey, verifySignature } from './keys.ts';
import { lruCache } from '../bounded/lru-cache.ts';

/** Whether `signatureHex` is a signature of `message` by `key`: `verifySignature`, or a function with the same results. */
export type VerifySignature = (key: TufKey, message: Uint8Array, signatureHex: string) => boolean;

/** The bound of remembered valid signatures: those of a few sets of metadata, 32 bytes of hash each. */
export const MAX_REMEMBERED_SIGNATURES = 256;

/**
 * Verifies each signature once, for a process that reads the same metadata in several places. Whether a signature is valid depends on key,
 * message and signature alone, and the memory holds a hash over all three. It doesn't remember which key may sign for what; that is
 * checked each time. It never remembers an invalid signature, so that a sender can't fill it.
 * @param verify checks a signature that isn't remembered
 */
export function rememberingVerifier(verify: VerifySignature = verifySignature): VerifySignature {
  const right = lruCache<string, true>({ max: MAX_REMEMBERED_SIGNATURES });
  return (key, message, signatureHex) => {
    const identity = keyIdentityOf(key);
    if (identity === undefined) return false;
    const name = createHash('sha256')
      // The lengths keep the parts apart: no two inputs give the same bytes.
      .update(`${identity.length} ${identity} ${signatureHex.length} ${signatureHex} `)
      .update(message)
      .digest('base64');
    if (right.get(name)) return true;
    if (!verify(key, message, signatureHex)) return false;
    right.set(name, true);
    return true;
  };
}
