import type { KeyPair, OnlineRole } from '@sitecast/shared/signing';

/** The key that signs for a role, or the one that waits until metadata names it. */
export type KeyUse = 'active' | 'pending';

export type StoredKey =
  | { state: 'usable'; pair: KeyPair }
  /** There, but of no use. `problem` goes on after the key's label. */
  | { state: 'unusable'; problem: string; error: unknown }
  | { state: 'missing' };

/**
 * Where the origin's own private keys lie. Several origins may call all of it at once.
 * Errors: SITECAST_NO_SPACE for a full disk; otherwise the system's own.
 */
export interface KeyStore {
  /** What people know a key by, in messages. */
  label(role: OnlineRole, use: KeyUse): string;
  read(role: OnlineRole, use: KeyUse): Promise<StoredKey>;
  /**
   * Keeps a key, durably, unless a usable one is there: another origin may have been faster.
   * @returns the one that is there now
   */
  add(role: OnlineRole, use: KeyUse, pair: KeyPair): Promise<KeyPair>;
  /**
   * The pending key of a role becomes the active one, in one step: there is no moment with neither. The key before it is gone
   * for good. Without an effect where another origin has done so already.
   * @param pair the pending key
   */
  activate(role: OnlineRole, pair: KeyPair): Promise<void>;
}
