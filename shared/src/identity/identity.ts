import { join } from 'node:path';
import { createFileDurably, makeDirectory, readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { KeyPair } from '../signing/index.ts';
import { idOfPublicKey } from './peer-id.ts';

const MAX_IDENTITY_BYTES = 4096;
const FILE_NAME = 'identity.key';

/** Who a device or gateway is: one Ed25519 key, kept in its data directory and never leaving it. */
export class Identity {
  readonly id: string;
  readonly #pair: KeyPair;

  constructor(pair: KeyPair) {
    this.#pair = pair;
    this.id = idOfPublicKey(Buffer.from(pair.key.keyval.public ?? '', 'hex'));
  }

  /**
   * The identity in a data directory; made, durably and 0600, at the first call.
   * @throws SITECAST_KEY_INVALID for a file that holds no key: it's never replaced by itself, for the device would
   *   be a stranger then
   */
  static async open(directory: string): Promise<Identity> {
    await makeDirectory(directory, 0o700);
    const path = join(directory, FILE_NAME);
    const pair = KeyPair.generate();
    try {
      await createFileDurably(path, pair.toPkcs8Pem(), 0o600);
      return new Identity(pair);
    } catch (error) {
      if (!isSystemError(error, 'EEXIST')) throw error;
    }
    const pem = (await readFileBounded(path, MAX_IDENTITY_BYTES)).toString('utf8');
    try {
      return new Identity(KeyPair.fromPkcs8(pem));
    } catch (cause) {
      throw new SitecastError('failed', 'SITECAST_KEY_INVALID', `${path} holds no usable key`, {
        hint: 'restore it from a backup; or delete it to enrol anew, as another device',
        cause,
      });
    }
  }

  /** The 64 bytes of an Ed25519 signature. */
  sign(bytes: Uint8Array): Promise<Uint8Array> {
    return this.#pair.sign(bytes);
  }
}
