import { KeyPair, ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { KeyStore } from './key-store.ts';

/**
 * The origin's own private keys: for each online role the active one, and a pending one while a rotation waits for
 * the operators' signatures.
 */
export class OnlineKeys {
  readonly #store: KeyStore;
  readonly #active = new Map<OnlineRole, KeyPair>();
  readonly #pending = new Map<OnlineRole, KeyPair>();
  /** Why an active key isn't used that is there. */
  readonly #problems = new Map<OnlineRole, string>();

  private constructor(store: KeyStore) {
    this.#store = store;
  }

  /**
   * Reads the keys. With a repository, a key that is missing or unusable doesn't keep the origin from starting: it serves what
   * was signed, and `problemOf` says what is wrong.
   * @param mayCreate true without a repository: keys that aren't there are made
   * @throws SITECAST_KEY_INVALID, without a repository, if a key is there and isn't one
   */
  static async open(store: KeyStore, { mayCreate }: { mayCreate: boolean }): Promise<OnlineKeys> {
    const keys = new OnlineKeys(store);
    for (const role of ONLINE_ROLES) {
      const [active, pending] = [await store.read(role, 'active'), await store.read(role, 'pending')];
      for (const key of [active, pending]) if (mayCreate && key.state === 'unusable') throw key.error;
      if (active.state === 'usable') keys.#active.set(role, active.pair);
      else if (active.state === 'unusable') keys.#problems.set(role, active.problem);
      else if (mayCreate) keys.#active.set(role, await store.add(role, 'active', KeyPair.generate()));
      if (pending.state === 'usable') keys.#pending.set(role, pending.pair);
    }
    return keys;
  }

  /** Reads the keys anew, because another origin may have rotated some. A key that can't be read stays as it is known. */
  async reread(): Promise<void> {
    for (const role of ONLINE_ROLES) {
      const [active, pending] = [
        await this.#store.read(role, 'active'),
        await this.#store.read(role, 'pending'),
      ];
      if (active.state === 'usable') {
        this.#active.set(role, active.pair);
        this.#problems.delete(role);
      }
      if (pending.state === 'usable') this.#pending.set(role, pending.pair);
      else if (pending.state === 'missing') this.#pending.delete(role);
    }
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
    const label = this.#store.label(role, 'active');
    const problem = this.#problems.get(role);
    if (problem !== undefined) return `${label} ${problem}`;
    return this.#active.has(role)
      ? `${label} is another key than the one that the published metadata names`
      : `${label} is missing`;
  }

  /** Makes a pending key for a role, or returns the one that is pending already. */
  async prepare(role: OnlineRole): Promise<KeyPair> {
    const pair = this.#pending.get(role) ?? (await this.#store.add(role, 'pending', KeyPair.generate()));
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
    await this.#store.activate(role, pending);
    this.#problems.delete(role);
    this.#active.set(role, pending);
    this.#pending.delete(role);
    return true;
  }
}
