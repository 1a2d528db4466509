import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { lruCache } from '../bounded/lru-cache.ts';
import { ed25519Key, type TufKey, verifySignature } from '../trust/index.ts';
import type { VerifySignature } from './envelope.ts';
import { publicKeyOfId } from './peer-id.ts';

/** Signatures by devices and gateways, whose ids hold their keys: @noble/ed25519, for a few at a time. */
export const verifyById: VerifySignature = (id, message, signature) =>
  verifySignature(ed25519Key(publicKeyOfId(id)), message, Buffer.from(signature).toString('hex'));

/** Signatures by the keys of a role, as signed metadata lists them. */
export function verifyByKeys(keys: Readonly<Record<string, TufKey>>): VerifySignature {
  return (keyId, message, signature) => {
    const key = Object.hasOwn(keys, keyId) ? keys[keyId] : undefined;
    return key !== undefined && verifySignature(key, message, Buffer.from(signature).toString('hex'));
  };
}

const MAX_PARSED_KEYS = 200_000;

/**
 * The same as `verifyById`, ten times as fast: node:crypto with keys that are parsed once. For the origin, which
 * checks thousands of reports a second.
 */
export function fastVerifyById(maxKeys = MAX_PARSED_KEYS): VerifySignature {
  const parsed = lruCache<string, KeyObject>({ max: maxKeys });
  return (id, message, signature) => {
    let key = parsed.get(id);
    if (!key) {
      key = createPublicKey({
        key: { kty: 'OKP', crv: 'Ed25519', x: publicKeyOfId(id).toString('base64url') },
        format: 'jwk',
      });
      parsed.set(id, key);
    }
    return verify(null, message, key, signature);
  };
}
