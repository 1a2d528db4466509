import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { KeyPair, ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { Files } from '../storage/files.ts';

const MAX_KEY_FILE_BYTES = 8 * 1024;
const KEYS = 'keys';
const KEY_MODE = 0o600;

/**
 * The origin's own private keys: for each online role the active one, and a pending one while a rotation waits for
 * the operators' signatures. A pending key becomes the active one by a rename over it, which deletes the old key in
 * the same step: there's no moment with neither.
 */
export class OnlineKeys {
  readonly #files: Files;
  readonly #active = new Map<OnlineRole, KeyPair>();
  readonly #pending = new Map<OnlineRole, KeyPair>();
  /** Why a file isn't used that is there, by its path. */
  readonly #unusable = new Map<string, string>();

  private constructor(files: Files) {
    this.#files = files;
  }

  /**
   * Reads the keys. With a repository one that is missing or unusable is no reason not to start: everything is served that
   * was signed, and `problemOf` says what is wrong.
   * @param mayCreate true on a data directory without a repository: keys that aren't there are made
   * @throws SITECAST_KEY_INVALID, without a repository, for a file that holds no key
   */
  static async open(files: Files, { mayCreate }: { mayCreate: boolean }): Promise<OnlineKeys> {
    const keys = new OnlineKeys(files);
    for (const role of ONLINE_ROLES) {
      const active = await keys.#read(activePath(role), mayCreate);
      const pending = await keys.#read(pendingPath(role), mayCreate);
      if (active) keys.#active.set(role, active);
      else if (mayCreate) keys.#active.set(role, await keys.#make(activePath(role)));
      if (pending) keys.#pending.set(role, pending);
    }
    return keys;
  }

  active(role: OnlineRole): KeyPair | undefined {
    return this.#active.get(role);
  }

  pending(role: OnlineRole): KeyPair | undefined {
    return this.#pending.get(role);
  }

  /** The key of a role with this id, be it active or pending. */
  withId(role: OnlineRole, keyId: string): KeyPair | undefined {
    return [this.#active.get(role), this.#pending.get(role)].find(pair => pair?.keyId === keyId);
  }

  /** Why the key that the published metadata names for a role isn't here. */
  problemOf(role: OnlineRole): string {
    const path = activePath(role);
    const unusable = this.#unusable.get(path);
    if (unusable !== undefined) return `${path} ${unusable}`;
    return this.#active.has(role)
      ? `${path} is another key than the one that the published metadata names`
      : `${path} is missing`;
  }

  /** Makes a pending key for a role, or returns the one that is pending already. */
  async prepare(role: OnlineRole): Promise<KeyPair> {
    const pair = this.#pending.get(role) ?? (await this.#make(pendingPath(role)));
    this.#pending.set(role, pair);
    return pair;
  }

  /**
   * To be called once the committed metadata names `keyId` for the role: a pending key of that id becomes the active
   * one, and the one before it is gone for good. Does nothing where the active key is meant.
   */
  async activate(role: OnlineRole, keyId: string): Promise<boolean> {
    const pending = this.#pending.get(role);
    if (pending?.keyId !== keyId) return false;
    await this.#files.move(pendingPath(role), activePath(role));
    this.#unusable.delete(activePath(role));
    this.#active.set(role, pending);
    this.#pending.delete(role);
    await this.#files.syncDirectory(KEYS);
    return true;
  }

  async #read(path: string, isStrict: boolean): Promise<KeyPair | undefined> {
    let pem: Buffer | undefined;
    try {
      pem = await this.#files.read(path, MAX_KEY_FILE_BYTES);
    } catch (cause) {
      if (isStrict) throw cause;
      this.#unusable.set(
        path,
        `can't be read (${isSystemError(cause) ? cause.code : 'it is no small file'})`,
      );
      return undefined;
    }
    if (pem === undefined) return undefined;
    try {
      return KeyPair.fromPkcs8(pem.toString('utf8'));
    } catch (cause) {
      if (isStrict) throw noKey(path, cause);
      this.#unusable.set(path, 'holds no Ed25519 private key');
      return undefined;
    }
  }

  async #make(path: string): Promise<KeyPair> {
    const pair = KeyPair.generate();
    await this.#files.writeDurably(path, Buffer.from(pair.toPkcs8Pem()), KEY_MODE);
    return pair;
  }
}

function noKey(path: string, cause: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_KEY_INVALID', `${path} holds no Ed25519 private key`, {
    hint: 'Bring the file back from a backup of the data directory, or delete it: another one is made.',
    cause,
  });
}

function activePath(role: OnlineRole): string {
  return `${KEYS}/${role}.pem`;
}

function pendingPath(role: OnlineRole): string {
  return `${KEYS}/${role}.next.pem`;
}
