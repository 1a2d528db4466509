import { createPublicKey, verify } from 'node:crypto';
import { expect, it } from 'vitest';
import { KeyPair } from './key-pair.ts';

it('creates a new key each time, whose signatures its public half verifies', async () => {
  const [one, other] = [KeyPair.generate(), KeyPair.generate()];
  expect(one.keyId).not.toBe(other.keyId);
  const message = Buffer.from('message');
  const publicKey = createPublicKey(one.toPkcs8Pem());
  expect(verify(null, message, publicKey, await one.sign(message))).toBe(true);
  expect(KeyPair.fromPkcs8(one.toPkcs8Pem()).keyId).toBe(one.keyId);
});
