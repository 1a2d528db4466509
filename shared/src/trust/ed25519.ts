import { createPublicKey, type KeyObject, verify } from 'node:crypto';

const KEY_BYTES = 32;
/** 2^255 - 19, the size of the field (RFC 8032, 5.1), as a key would encode it. */
const FIELD = Buffer.from('ed'.padEnd(62, 'f').concat('7f'), 'hex');
/** The y coordinates of the eight points of small order: of order 4, 1, 2, and 8 (two of them); a key's sign bit is left out. */
const SMALL_ORDER = new Set([
  '0'.repeat(64),
  '01'.padEnd(64, '0'),
  'ec'.padEnd(62, 'f').concat('7f'),
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
]);

/**
 * An Ed25519 public key that `verifyEd25519` takes. A key is refused that has a second encoding, or that belongs to the eight points
 * of small order: under such a key one signature fits many messages. OpenSSL alone takes both. Bytes that are no point of the curve are
 * taken here, and verify no signature: OpenSSL decodes the point before it verifies.
 * @param raw 32 bytes (RFC 8032, 5.1.2)
 * @returns undefined for bytes that are no key
 */
export function readEd25519Key(raw: Uint8Array): KeyObject | undefined {
  if (raw.length !== KEY_BYTES) return undefined;
  const y = Buffer.from(raw);
  y.writeUInt8(y.readUInt8(KEY_BYTES - 1) & 0x7f, KEY_BYTES - 1);
  if (SMALL_ORDER.has(y.toString('hex')) || !isBelowField(y)) return undefined;
  const x = Buffer.from(raw).toString('base64url');
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
}

/** RFC 8032, 5.1.3, step 1. Both are little-endian. */
function isBelowField(y: Buffer): boolean {
  return Buffer.compare(Buffer.from(y).reverse(), Buffer.from(FIELD).reverse()) < 0;
}

/**
 * RFC 8032, 5.1.7, by OpenSSL: without the cofactor, and with one encoding of each signature.
 * @param signature 64 bytes; of another length it is wrong
 */
export function verifyEd25519(key: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return verify(null, message, key, signature);
}
