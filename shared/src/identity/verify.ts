import type { KeyObject } from 'node:crypto';
import { lruCache } from '../bounded/lru-cache.ts';
import { readEd25519Key, type TufKey, verifyEd25519, verifySignature } from '../trust/index.ts';
import type { VerifySignature } from './envelope.ts';
import { publicKeyOfId } from './peer-id.ts';

/** Signatures by devices and gateways, whose ids hold their keys: for a few at a time. */
export const verifyById: VerifySignature = (id, message, signature) => {
  const key = readEd25519Key(publicKeyOfId(id));
  return key !== undefined && verifyEd25519(key, message, signature);
};

/** Signatures by the keys of a role, as signed metadata lists them. */
export function verifyByKeys(keys: Readonly<Record<string, TufKey>>): VerifySignature {
  return (keyId, message, signature) => {
    const key = Object.hasOwn(keys, keyId) ? keys[keyId] : undefined;
    return key !== undefined && verifySignature(key, message, Buffer.from(signature).toString('hex'));
  };
}

const MAX_PARSED_KEYS = 200_000;

/** The same as `verifyById`, with keys that are read once: for the origin, which checks thousands of reports a second. */
export function fastVerifyById(maxKeys = MAX_PARSED_KEYS): VerifySignature {
  const parsed = lruCache<string, KeyObject>({ max: maxKeys });
  return (id, message, signature) => {
    const known = parsed.get(id);
    const key = known ?? readEd25519Key(publicKeyOfId(id));
    if (!key) return false;
    if (!known) parsed.set(id, key);
    return verifyEd25519(key, message, signature);
  };
}
