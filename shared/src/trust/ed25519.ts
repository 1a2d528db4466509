import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { Point } from '@noble/ed25519';

/**
 * An Ed25519 public key that `verifyEd25519` takes. A key is refused that has a second encoding, or that belongs to the eight points
 * of small order: under such a key one signature fits many messages.
 * @param raw 32 bytes (RFC 8032, 5.1.2)
 * @returns undefined for bytes that are no key
 */
export function readEd25519Key(raw: Uint8Array): KeyObject | undefined {
  try {
    // The strict decoding of RFC 8032, 5.1.3; OpenSSL alone takes both kinds of keys.
    if (Point.fromBytes(raw, false).isSmallOrder()) return undefined;
  } catch {
    // Not 32 bytes, or not a point on the curve.
    return undefined;
  }
  const x = Buffer.from(raw).toString('base64url');
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
}

/**
 * RFC 8032, 5.1.7, by OpenSSL: without the cofactor, and with one encoding of each signature.
 * @param signature 64 bytes; of another length it is wrong
 */
export function verifyEd25519(key: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return verify(null, message, key, signature);
}
