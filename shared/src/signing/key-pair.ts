import { createPrivateKey, type KeyObject, randomBytes, sign } from 'node:crypto';
import { SitecastError } from '../errors.ts';
import { ed25519Key, keyIdOf, type Signer, type TufKey } from '../trust/index.ts';

const SEED_BYTES = 32;
/** What stands before the seed of an Ed25519 key in PKCS#8 (RFC 8410, 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/** An Ed25519 key pair. The private half leaves it as PKCS#8 (RFC 8410) alone. */
export class KeyPair implements Signer {
  readonly keyId: string;
  readonly key: TufKey;
  readonly #private: KeyObject;

  private constructor(privateKey: KeyObject) {
    const { d, x } = privateKey.export({ format: 'jwk' });
    if (d === undefined || x === undefined) throw invalidKey('holds no Ed25519 private key');
    this.#private = privateKey;
    this.key = ed25519Key(Buffer.from(x, 'base64url'));
    this.keyId = keyIdOf(this.key);
  }

  /**
   * Any 32 bytes are a private key (RFC 8032, 5.1.5). Not `generateKeyPairSync`: the export of a key that it has made can stop
   * the whole process for ever, in Node 20, where the garbage collector runs within it and takes the same lock.
   */
  static generate(): KeyPair {
    return KeyPair.fromPkcs8(Buffer.concat([PKCS8_PREFIX, randomBytes(SEED_BYTES)]));
  }

  /** @throws SITECAST_KEY_INVALID for anything that isn't an Ed25519 private key */
  static fromPkcs8(key: Buffer | string): KeyPair {
    let parsed: KeyObject;
    try {
      parsed = createPrivateKey(typeof key === 'string' ? key : { key, format: 'der', type: 'pkcs8' });
    } catch (error) {
      throw invalidKey('holds no private key in PKCS#8', error);
    }
    if (parsed.asymmetricKeyType !== 'ed25519')
      throw invalidKey(`holds a key of type ${parsed.asymmetricKeyType}, not Ed25519`);
    return new KeyPair(parsed);
  }

  toPkcs8Der(): Buffer {
    return this.#private.export({ format: 'der', type: 'pkcs8' });
  }

  toPkcs8Pem(): string {
    return this.#private.export({ format: 'pem', type: 'pkcs8' }).toString();
  }

  /** RFC 8032, 64 bytes. */
  async sign(bytes: Uint8Array): Promise<Uint8Array> {
    return sign(null, bytes, this.#private);
  }
}

function invalidKey(reason: string, cause?: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_KEY_INVALID', `the key file ${reason}`, { cause });
}
