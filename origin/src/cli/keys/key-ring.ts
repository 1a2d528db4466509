import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type KeyPair, listKeys, readPrivateKey } from '@sitecast/shared/signing';
import { passphraseSource } from '../terminal.ts';
import type { KeyOptions } from '../settings.ts';

/** The private keys in a folder. Each is opened once, when it is first needed. */
export class KeyRing {
  readonly directory: string;
  readonly #ask;
  readonly #opened = new Map<string, KeyPair>();
  #paths: Map<string, string> | undefined;

  constructor({ keys, passphraseFile }: KeyOptions) {
    this.directory = keys;
    this.#ask = passphraseSource(passphraseFile);
  }

  /**
   * Opens those of the wanted keys that the folder holds, and asks for their passphrase.
   * @throws SITECAST_KEYS_MISSING if the folder doesn't exist; SITECAST_PASSPHRASE_WRONG, SITECAST_PASSPHRASE_MISSING
   */
  async open(wantedKeyIds: Iterable<string>): Promise<KeyPair[]> {
    this.#paths ??= await this.#list();
    const pairs: KeyPair[] = [];
    for (const keyId of new Set(wantedKeyIds)) {
      const path = this.#paths.get(keyId);
      if (path === undefined) continue;
      const pair = this.#opened.get(keyId) ?? (await readPrivateKey(path, this.#ask)).pair;
      this.#opened.set(keyId, pair);
      pairs.push(pair);
    }
    return pairs;
  }

  async #list(): Promise<Map<string, string>> {
    try {
      return (await listKeys(this.directory)).privatePaths;
    } catch (error) {
      if (!isSystemError(error, 'ENOENT')) throw error;
      throw new SitecastError(
        'badInput',
        'SITECAST_KEYS_MISSING',
        `there's no folder ${this.directory} to take keys from`,
        { hint: 'give --keys DIR' },
      );
    }
  }
}
