import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { KeyPair, type OnlineRole } from '@sitecast/shared/signing';
import type { KeyStore, KeyUse, StoredKey } from '../../keys/key-store.ts';
import type { Files } from './files.ts';
import { KEYS } from './layout.ts';

const MAX_KEY_FILE_BYTES = 8 * 1024;
const KEY_MODE = 0o600;

/** The origin's private keys as PEM files: `keys/ROLE.pem`, and `keys/ROLE.next.pem` during a rotation. */
export class DiskKeyStore implements KeyStore {
  readonly #files: Files;

  constructor(files: Files) {
    this.#files = files;
  }

  label(role: OnlineRole, use: KeyUse): string {
    return `${KEYS}/${role}${use === 'active' ? '' : '.next'}.pem`;
  }

  async read(role: OnlineRole, use: KeyUse): Promise<StoredKey> {
    const path = this.label(role, use);
    let pem: Buffer | undefined;
    try {
      pem = await this.#files.read(path, MAX_KEY_FILE_BYTES);
    } catch (error) {
      const why = isSystemError(error) ? String(error.code) : 'it is no small file';
      return { state: 'unusable', problem: `can't be read (${why})`, error };
    }
    if (pem === undefined) return { state: 'missing' };
    try {
      return { state: 'usable', pair: KeyPair.fromPkcs8(pem.toString('utf8')) };
    } catch (cause) {
      return { state: 'unusable', problem: 'holds no Ed25519 private key', error: noKey(path, cause) };
    }
  }

  async add(role: OnlineRole, use: KeyUse, pair: KeyPair): Promise<KeyPair> {
    const path = this.label(role, use);
    const pem = Buffer.from(pair.toPkcs8Pem());
    if (await this.#files.createDurably(path, pem, KEY_MODE)) return pair;
    const found = await this.read(role, use);
    if (found.state === 'usable') return found.pair;
    await this.#files.writeDurably(path, pem, KEY_MODE);
    return pair;
  }

  async activate(role: OnlineRole, pair: KeyPair): Promise<void> {
    const [pending, active] = [this.label(role, 'pending'), this.label(role, 'active')];
    // A rename over the old key deletes it in the same step.
    if ((await this.#files.lengthOf(pending)) !== undefined) await this.#files.move(pending, active);
    else await this.#files.writeDurably(active, Buffer.from(pair.toPkcs8Pem()), KEY_MODE);
    await this.#files.syncDirectory(KEYS);
  }
}

function noKey(path: string, cause: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_KEY_INVALID', `${path} holds no Ed25519 private key`, {
    hint: 'Bring the file back from a backup of the data directory, or delete it: another one is made.',
    cause,
  });
}
