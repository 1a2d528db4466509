import {
  createHash,
  createPublicKey,
  type KeyObject,
  constants,
  verify as verifyWithNode,
} from 'node:crypto';
import { canonicalize } from '@tufjs/canonical-json';
import { readEd25519Key, verifyEd25519 } from './ed25519.ts';

/** A public key as TUF metadata holds it. Unknown fields are kept. */
export interface TufKey {
  keytype: string;
  scheme: string;
  keyval: { public?: string };
}

/** Bounds of RSA moduli (TUF 1.0 section 4.2 demands at least 2048). Beyond the maximum, verifying costs too much. */
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;
const PEM_HEADER = '-----BEGIN PUBLIC KEY-----';

/** The key id of TUF 1.0 section 4.2: SHA-256, in hex, of the key's canonical JSON. */
export function keyIdOf(key: TufKey): string {
  return createHash('sha256').update(canonicalize(key)).digest('hex');
}

/** @param publicKey the 32 bytes of RFC 8032 */
export function ed25519Key(publicKey: Uint8Array): TufKey {
  return {
    keytype: 'ed25519',
    scheme: 'ed25519',
    keyval: { public: Buffer.from(publicKey).toString('hex') },
  };
}

/**
 * Two keys with the same identity are the same key. The identity is the key's mathematical content, whatever its spelling, key id, scheme
 * or extra fields. It is undefined for keys that this client can't use.
 */
export function keyIdentityOf(key: TufKey): string | undefined {
  return usableKey(key)?.identity;
}

/**
 * True if `signatureHex` is a signature of `message` by `key`. It is false for a malformed signature and for a key of an unknown type:
 * neither must invalidate the other signatures of a file.
 */
export function verifySignature(key: TufKey, message: Uint8Array, signatureHex: string): boolean {
  if (!/^(?:[0-9a-f]{2})+$/i.test(signatureHex)) return false;
  try {
    return usableKey(key)?.verify(message, Buffer.from(signatureHex, 'hex')) ?? false;
  } catch {
    // A signature of the wrong length or form doesn't verify. The libraries throw for it.
    return false;
  }
}

interface UsableKey {
  identity: string;
  verify(message: Uint8Array, signature: Uint8Array): boolean;
}

const known = new WeakMap<TufKey, UsableKey | undefined>();

function usableKey(key: TufKey): UsableKey | undefined {
  if (!known.has(key)) known.set(key, readKey(key));
  return known.get(key);
}

function readKey(key: TufKey): UsableKey | undefined {
  const text = key.keyval.public;
  if (typeof text !== 'string') return undefined;
  try {
    switch (key.keytype) {
      case 'ed25519':
        return readEd25519(key.scheme, text);
      case 'rsa':
        return readRsa(key.scheme, text);
      case 'ecdsa':
      case 'ecdsa-sha2-nistp256':
      case 'ecdsa-sha2-nistp384':
        return readEcdsa(key.scheme, text);
      default:
        return undefined;
    }
  } catch {
    // An unreadable key verifies nothing. The threshold decides whether the other signatures suffice.
    return undefined;
  }
}

function readEd25519(scheme: string, text: string): UsableKey | undefined {
  if (scheme !== 'ed25519') return undefined;
  const raw = text.startsWith(PEM_HEADER) ? rawEd25519(createPublicKey(text)) : fromHex(text);
  const key = raw && readEd25519Key(raw);
  if (!key) return undefined;
  return {
    identity: `ed25519:${raw.toString('hex')}`,
    verify: (message, signature) => verifyEd25519(key, message, signature),
  };
}

function rawEd25519(key: KeyObject): Buffer | undefined {
  const { kty, crv, x } = key.export({ format: 'jwk' });
  return kty === 'OKP' && crv === 'Ed25519' && x !== undefined ? Buffer.from(x, 'base64url') : undefined;
}

function readRsa(scheme: string, text: string): UsableKey | undefined {
  if (scheme !== 'rsassa-pss-sha256' || !text.startsWith(PEM_HEADER)) return undefined;
  const key = createPublicKey(text);
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (key.asymmetricKeyType !== 'rsa' || bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) return undefined;
  const { n, e } = key.export({ format: 'jwk' });
  return {
    identity: `rsa:${n}:${e}`,
    verify: (message, signature) =>
      verifyWithNode('sha256', message, { key, padding: constants.RSA_PKCS1_PSS_PADDING }, signature),
  };
}

const CURVES = new Map([
  ['ecdsa-sha2-nistp256', { curve: 'P-256', digest: 'sha256', oid: '06082a8648ce3d030107' }],
  ['ecdsa-sha2-nistp384', { curve: 'P-384', digest: 'sha384', oid: '06052b81040022' }],
]);
const EC_PUBLIC_KEY_OID = '06072a8648ce3d0201';

function readEcdsa(scheme: string, text: string): UsableKey | undefined {
  const wanted = CURVES.get(scheme);
  if (!wanted) return undefined;
  const key = text.startsWith(PEM_HEADER) ? createPublicKey(text) : ecPoint(text, wanted.oid);
  const { kty, crv, x, y } = key?.export({ format: 'jwk' }) ?? {};
  if (key === undefined || kty !== 'EC' || crv !== wanted.curve) return undefined;
  return {
    identity: `ec:${crv}:${x}:${y}`,
    verify: (message, signature) => verifyWithNode(wanted.digest, message, key, signature),
  };
}

/** An elliptic curve key written as the hex of its point, as in older repositories. */
function ecPoint(hex: string, curveOid: string): KeyObject | undefined {
  const point = fromHex(hex);
  if (!point) return undefined;
  const algorithm = derElement(0x30, Buffer.from(EC_PUBLIC_KEY_OID + curveOid, 'hex'));
  const bits = derElement(0x03, Buffer.concat([Buffer.from([0]), point]));
  return createPublicKey({
    key: derElement(0x30, Buffer.concat([algorithm, bits])),
    format: 'der',
    type: 'spki',
  });
}

function derElement(tag: number, content: Buffer): Buffer {
  const length = content.length < 0x80 ? [content.length] : [0x81, content.length];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function fromHex(text: string): Buffer | undefined {
  return /^(?:[0-9a-f]{2}){1,128}$/i.test(text) ? Buffer.from(text, 'hex') : undefined;
}
