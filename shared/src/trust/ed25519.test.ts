import { getPublicKey, hashes, Point, sign, utils } from '@noble/ed25519';
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { readEd25519Key, verifyEd25519 } from './ed25519.ts';

hashes.sha512 = message => new Uint8Array(createHash('sha512').update(message).digest());

/** The order of the group that the base point generates, and the field's size (RFC 8032, 5.1). */
const ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;
const FIELD = 2n ** 255n - 19n;
const message = Buffer.from('message');
const seed = utils.randomSecretKey();

describe('keys', () => {
  it('are the 32 bytes of a point', () => {
    expect(readEd25519Key(getPublicKey(seed))).toBeDefined();
    expect(readEd25519Key(getPublicKey(seed).subarray(1))).toBeUndefined();
    expect(readEd25519Key(new Uint8Array(33))).toBeUndefined();
  });

  it('verify nothing where they are no point of the curve', () => {
    expect(pointAt(2n)).toBeUndefined();
    const key = readEd25519Key(littleEndian(2n));
    if (!key) throw new Error('the key is refused');
    for (const signature of [
      sign(message, seed),
      new Uint8Array(64),
      Buffer.concat([littleEndian(1n), littleEndian(0n)]),
    ])
      expect(verifyEd25519(key, message, signature)).toBe(false);
  });

  it('are no points of small order, in whatever encoding', () => {
    // y of the points of order 1, 2 and 4, then of order 8 (from their definition: a point times the group's order).
    const ys = new Set([0n, 1n, FIELD - 1n]);
    for (let y = 2n; ys.size < 5; y += 1n) {
      const point = pointAt(y);
      // Of full order is what is left then: noble multiplies by less than the order alone.
      if (point)
        ys.add(
          point
            .multiplyUnsafe(ORDER - 1n)
            .add(point)
            .toAffine().y,
        );
    }
    for (const y of ys) {
      for (const encoded of [y, y + FIELD]) {
        if (encoded >= 2n ** 255n) continue;
        expect(readEd25519Key(littleEndian(encoded))).toBeUndefined();
        expect(readEd25519Key(littleEndian(encoded | (1n << 255n)))).toBeUndefined();
      }
    }
  });

  it('have one encoding', () => {
    // Those whose y is below 19 have a second one, y + the field's size; some such y is on the curve and of full order.
    const small = Array.from({ length: 17 }, (_, at) => BigInt(at + 2)).filter(y => pointAt(y));
    expect(small.length).toBeGreaterThan(0);
    for (const y of small) {
      expect(readEd25519Key(littleEndian(y))).toBeDefined();
      expect(readEd25519Key(littleEndian(y + FIELD))).toBeUndefined();
    }
  });
});

describe('signatures', () => {
  const key = readEd25519Key(getPublicKey(seed));
  const signature = sign(message, seed);

  it('are right for their message alone', () => {
    if (!key) throw new Error('the key is refused');
    expect(verifyEd25519(key, message, signature)).toBe(true);
    expect(verifyEd25519(key, Buffer.from('messagf'), signature)).toBe(false);
    expect(verifyEd25519(key, message, signature.subarray(1))).toBe(false);
    expect(verifyEd25519(key, message, new Uint8Array(64))).toBe(false);
  });

  it('have one encoding', () => {
    if (!key) throw new Error('the key is refused');
    // S + the group's order means the same to who doesn't compare it with the order (RFC 8032, 8.4).
    const s = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`);
    const other = Buffer.concat([signature.subarray(0, 32), littleEndian(s + ORDER)]);
    expect(verifyEd25519(key, message, other)).toBe(false);
  });
});

function littleEndian(number: bigint): Buffer {
  return Buffer.from(number.toString(16).padStart(64, '0'), 'hex').reverse();
}

function pointAt(y: bigint): Point | undefined {
  try {
    return Point.fromBytes(littleEndian(y));
  } catch {
    return undefined;
  }
}
