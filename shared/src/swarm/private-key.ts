import { publicKeyFromRaw } from '@libp2p/crypto/keys';
import type { Ed25519PrivateKey } from '@libp2p/interface';
import { type Identity, publicKeyOfId } from '../identity/index.ts';

/** An identity in the form that libp2p needs. It can sign; the key itself can't be read from it. */
export function privateKeyOf(identity: Identity): Ed25519PrivateKey {
  const publicKey = publicKeyFromRaw(publicKeyOfId(identity.id));
  if (publicKey.type !== 'Ed25519') throw new TypeError('an id names an Ed25519 key');
  const key: Ed25519PrivateKey = {
    type: 'Ed25519',
    publicKey,
    get raw(): Uint8Array {
      throw new TypeError('the private key of an identity is not handed out');
    },
    equals: other => other === key,
    sign: data => identity.sign(data.subarray()),
  };
  return key;
}
