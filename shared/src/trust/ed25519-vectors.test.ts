// The one suite of vectors for signatures: those of RFC 8032, and the edge cases in which libraries differ (Chalkias, Garillot and
// Nikolaenko, "Taming the many EdDSAs", 2020). @noble/ed25519, a second implementation, makes them and is the reference.
import { getPublicKey, hashes, Point, sign, utils, verify } from '@noble/ed25519';
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { KeyPair } from '../signing/index.ts';
import { readEd25519Key, verifyEd25519 } from './ed25519.ts';

hashes.sha512 = message => new Uint8Array(createHash('sha512').update(message).digest());

const ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;
const FIELD = 2n ** 255n - 19n;
/** What stands before the seed of an Ed25519 key in PKCS#8 (RFC 8410, 7). */
const PKCS8_PREFIX = '302e020100300506032b657004220420';

interface Signed {
  key: Uint8Array;
  message: Uint8Array;
  signature: Uint8Array;
}

const byOpenSsl = ({ key, message, signature }: Signed): boolean => {
  const read = readEd25519Key(key);
  return read !== undefined && verifyEd25519(read, message, signature);
};
const byNoble = ({ key, message, signature }: Signed): boolean =>
  verify(signature, message, key, { zip215: false });

/** Section 7.1: seed, public key, message, signature. */
const RFC_8032 = [
  [
    '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    '',
    'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  ],
  [
    '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
    '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
    '72',
    '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
  ],
  [
    'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    'af82',
    '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  ],
  [
    '833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42',
    'ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf',
    createHash('sha512').update('abc').digest('hex'),
    'dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704',
  ],
] as const;

const bytesOf = (hex: string): Buffer => Buffer.from(hex, 'hex');

describe("RFC 8032's vectors", () => {
  it.each(RFC_8032)('are signed and verified by both (%s)', async (seed, key, message, signature) => {
    const pair = KeyPair.fromPkcs8(bytesOf(PKCS8_PREFIX + seed));
    expect(pair.key.keyval.public).toBe(key);
    expect(Buffer.from(await pair.sign(bytesOf(message))).toString('hex')).toBe(signature);
    expect(Buffer.from(sign(bytesOf(message), bytesOf(seed))).toString('hex')).toBe(signature);
    const signed = { key: bytesOf(key), message: bytesOf(message), signature: bytesOf(signature) };
    expect([byOpenSsl(signed), byNoble(signed)]).toEqual([true, true]);
  });

  it.each(RFC_8032)('are wrong by both with any bit changed (%s)', (_, key, message, signature) => {
    for (let bit = 0; bit < 512; bit += 7) {
      const changed = { key: bytesOf(key), message: bytesOf(message), signature: bytesOf(signature) };
      changed.signature[bit >> 3] = (changed.signature[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect([byOpenSsl(changed), byNoble(changed)]).toEqual([false, false]);
    }
    for (let bit = 0; bit < 256; bit += 7) {
      const changed = { key: bytesOf(key), message: bytesOf(message), signature: bytesOf(signature) };
      changed.key[bit >> 3] = (changed.key[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect([byOpenSsl(changed), byNoble(changed)]).toEqual([false, false]);
    }
  });
});

describe('edge cases', () => {
  const seed = Buffer.alloc(32, 7);
  const { scalar: secret, point: key } = utils.getExtendedPublicKey(seed);
  const torsion = pointOfOrder8();

  it('S is below the order (8.4), and a signature of nothing is wrong', () => {
    const message = Buffer.from('message');
    const signature = sign(message, seed);
    const s = numberOf(signature.subarray(32));
    for (const other of [s + ORDER, ORDER, 0n, 2n ** 256n - 1n]) {
      const changed = Buffer.concat([signature.subarray(0, 32), littleEndian(other)]);
      expect(both({ key: getPublicKey(seed), message, signature: changed })).toEqual([false, false]);
    }
    for (const length of [0, 32, 63, 65])
      expect(byOpenSsl({ key: getPublicKey(seed), message, signature: Buffer.alloc(length) })).toBe(false);
  });

  it('a key of small order verifies nothing, though its equation holds for many messages', () => {
    for (const small of [torsion, torsion.double(), torsion.double().double(), Point.ZERO]) {
      // With S = 0 and R = −kA the equation is SB = R + kA.
      for (const r of [Point.ZERO, torsion, torsion.negate()]) {
        const signature = Buffer.concat([r.toBytes(), littleEndian(0n)]);
        for (const text of ['a', 'b', 'c', 'd'])
          expect(both({ key: small.toBytes(), message: Buffer.from(text), signature })).toEqual([
            false,
            false,
          ]);
      }
    }
  });

  it('a second encoding of a point is wrong, as a key and as R', () => {
    // y = 1 + the field's size is the neutral point once more.
    const second = littleEndian(FIELD + 1n);
    const message = Buffer.from('message');
    expect(both({ key: second, message, signature: sign(message, seed) })).toEqual([false, false]);
    // R is the neutral point: S = k·a, where k hashes R as it is encoded.
    const k = challenge(second, key.toBytes(), message);
    const signature = Buffer.concat([second, littleEndian((k * secret) % ORDER)]);
    expect(both({ key: key.toBytes(), message, signature })).toEqual([false, false]);
  });

  it('a part of small order in R is wrong here, and right with the cofactor: RFC 8032 allows both', () => {
    const message = Buffer.from('message');
    const nonce = 12345n;
    const r = Point.BASE.multiply(nonce).add(torsion).toBytes();
    const s = (nonce + challenge(r, key.toBytes(), message) * secret) % ORDER;
    const signature = Buffer.concat([r, littleEndian(s)]);
    expect(both({ key: key.toBytes(), message, signature })).toEqual([false, true]);
  });

  it('a part of small order in the key is wrong here unless the hash takes it away', () => {
    const mixed = key.add(torsion).toBytes();
    const nonce = 54321n;
    const r = Point.BASE.multiply(nonce).toBytes();
    const seen = new Set<boolean>();
    for (let number = 0; seen.size < 2; number += 1) {
      const message = Buffer.from(`message ${number}`);
      const k = challenge(r, mixed, message);
      const isTakenAway = k % 8n === 0n;
      if (seen.has(isTakenAway)) continue;
      seen.add(isTakenAway);
      const signature = Buffer.concat([r, littleEndian((nonce + k * secret) % ORDER)]);
      expect(both({ key: mixed, message, signature })).toEqual([isTakenAway, true]);
    }
  });
});

/** What OpenSSL says, and what noble says. */
const both = (signed: Signed): [boolean, boolean] => [byOpenSsl(signed), byNoble(signed)];

/** RFC 8032, 5.1.7: of R, the key and the message. Not reduced: its lowest bits say what becomes of small order. */
function challenge(r: Uint8Array, key: Uint8Array, message: Uint8Array): bigint {
  return numberOf(createHash('sha512').update(r).update(key).update(message).digest()) % ORDER;
}

function pointOfOrder8(): Point {
  for (let y = 2n; ; y += 1n) {
    let point: Point;
    try {
      point = Point.fromBytes(littleEndian(y));
    } catch {
      continue;
    }
    // What the multiple by the group's order leaves is of small order.
    const small = point.multiplyUnsafe(ORDER - 1n).add(point);
    if (!small.double().double().is0()) return small;
  }
}

function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
}

function littleEndian(number: bigint): Buffer {
  return Buffer.from(number.toString(16).padStart(64, '0'), 'hex').reverse();
}
