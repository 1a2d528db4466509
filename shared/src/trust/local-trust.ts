import { SitecastError } from '../errors.ts';
import type { TrustLimits } from './limits.ts';
import type { TopLevelRole } from './metadata.ts';
import { fileNameFor } from './names.ts';
import type { MetadataStore } from './ports.ts';
import type { VerifySignature } from './signature-memory.ts';
import { TrustedSet } from './trusted-set.ts';

// Names without `.json`: no role's file can be called so.
/** The root that came out of band. Never rewritten: the last resort if both others are lost. */
const PINNED_ROOT = 'root.pinned';
/** Written before root.json, with the same bytes, so that one damaged file loses nothing. */
const ROOT_COPY = 'root.copy';
/** There while a root that takes away keys of timestamp or snapshot has been stored, or is about to be, and their files aren't deleted yet. */
const RECOVERY = 'recovery';
const MAX_RECOVERY_BYTES = 16;

/**
 * What a client keeps on disk, and in which order: each write is atomic, and between any two of them the power
 * may go. Files of roles are named as they are without a version (`root.json`, `timestamp.json`) and hold
 * the very bytes that the repository served.
 */
export class LocalTrust {
  readonly #store: MetadataStore;
  readonly #limits: TrustLimits;
  readonly #verify: VerifySignature | undefined;

  /** @param verify what says whether a signature is right, here and in the set that is loaded */
  constructor(store: MetadataStore, limits: TrustLimits, verify?: VerifySignature) {
    this.#store = store;
    this.#limits = limits;
    this.#verify = verify;
  }

  /**
   * Stores the root that came out of band.
   * @returns `kept` if the store was begun with it, or has come to it since; `other` if it was begun with
   *   another one, and nothing was changed
   */
  async initialise(rootBytes: Uint8Array, nowMs: number): Promise<'created' | 'kept' | 'other'> {
    const { maxRootBytes } = this.#limits;
    const pinned = await this.#pinned(nowMs);
    const newest = await this.#newestRoot(nowMs);
    const begun = [pinned, newest?.root.bytes].filter(bytes => bytes !== undefined);
    if (begun.some(bytes => isSame(bytes, rootBytes))) return 'kept';
    if (newest) {
      const version = usableRoot(rootBytes, nowMs, this.#verify)?.root.signed.version;
      if (pinned || version === undefined || version >= newest.root.signed.version) return 'other';
      // With which root it was begun is lost. Who gives an older one than is trusted now is taken at his word.
      await this.#store.write(PINNED_ROOT, rootBytes);
      return 'kept';
    }
    if (rootBytes.length > maxRootBytes) {
      throw new SitecastError(
        'tooLarge',
        'SITECAST_FILE_TOO_LARGE',
        `The root holds more than ${maxRootBytes} bytes`,
        { data: { maxRootBytes } },
      );
    }
    const set = new TrustedSet(rootBytes, nowMs);
    // First, as the last resort: with it alone, `load` works, and `repairRoot` adds the others.
    await this.#store.write(PINNED_ROOT, rootBytes);
    await this.repairRoot(set);
    return 'created';
  }

  /**
   * What the stored files amount to. Damaged ones are as good as absent: the repository has them again.
   * @throws SITECAST_TRUST_UNINITIALISED (badInput) if there's no usable root
   */
  async load(nowMs: number): Promise<TrustedSet> {
    const set = await this.#newestRoot(nowMs);
    if (!set) {
      throw new SitecastError(
        'badInput',
        'SITECAST_TRUST_UNINITIALISED',
        'There is no usable root metadata to start from',
        { hint: 'Start with the root file that your operator gave you.' },
      );
    }
    await this.#finishRecovery(set);
    const { maxTimestampBytes, maxSnapshotBytes, maxTargetsBytes } = this.#limits;
    await this.#restore('timestamp', maxTimestampBytes, bytes => set.restoreTimestamp(bytes));
    await this.#restore('snapshot', maxSnapshotBytes, bytes => set.restoreSnapshot(bytes));
    await this.#restore('targets', maxTargetsBytes, bytes => set.restoreTargets(bytes));
    return set;
  }

  /** Section 5.3.8, and the deletions of 5.3.11. */
  async saveRoot(set: TrustedSet, isRecovery: boolean): Promise<void> {
    const { bytes, signed } = set.root;
    // Noted first: if the power goes after the root is stored, `load` still knows what is to be deleted.
    if (isRecovery) await this.#store.write(RECOVERY, Buffer.from(String(signed.version)));
    await this.#store.write(ROOT_COPY, bytes);
    await this.#store.write('root.json', bytes);
    if (isRecovery) await this.#deleteForRecovery();
  }

  /** Puts back root files that were lost or damaged. */
  async repairRoot(set: TrustedSet): Promise<void> {
    const { bytes } = set.root;
    for (const name of [ROOT_COPY, 'root.json']) {
      const found = await this.#store.read(name, this.#limits.maxRootBytes);
      if (found === undefined || !isSame(found, bytes)) await this.#store.write(name, bytes);
    }
    const pinned = await this.#store.read(PINNED_ROOT, this.#limits.maxRootBytes);
    const isLost = pinned === undefined || (!isSame(pinned, bytes) && !usableRoot(pinned, 0, this.#verify));
    if (isLost) await this.#store.write(PINNED_ROOT, bytes);
  }

  /** Sections 5.4.5, 5.5.7, 5.6.6. */
  async save(role: Exclude<TopLevelRole, 'root'>, bytes: Uint8Array): Promise<void> {
    await this.#store.write(`${role}.json`, bytes);
  }

  async readDelegated(role: string): Promise<Uint8Array | undefined> {
    return this.#store.read(`${fileNameFor(role)}.json`, this.#limits.maxTargetsBytes);
  }

  async saveDelegated(role: string, bytes: Uint8Array): Promise<void> {
    await this.#store.write(`${fileNameFor(role)}.json`, bytes);
  }

  /** Undefined where it's damaged, too. */
  async #pinned(nowMs: number): Promise<Uint8Array | undefined> {
    const bytes = await this.#store.read(PINNED_ROOT, this.#limits.maxRootBytes);
    return bytes && usableRoot(bytes, nowMs, this.#verify)?.root.bytes;
  }

  async #newestRoot(nowMs: number): Promise<TrustedSet | undefined> {
    let newest: TrustedSet | undefined;
    for (const name of ['root.json', ROOT_COPY, PINNED_ROOT]) {
      const bytes = await this.#store.read(name, this.#limits.maxRootBytes);
      const set = bytes && usableRoot(bytes, nowMs, this.#verify);
      if (set && set.root.signed.version > (newest?.root.signed.version ?? 0)) newest = set;
    }
    return newest;
  }

  async #finishRecovery(set: TrustedSet): Promise<void> {
    const noted = await this.#store.read(RECOVERY, MAX_RECOVERY_BYTES);
    if (noted === undefined) return;
    const version = Number(Buffer.from(noted).toString());
    // If the root didn't get stored, it will be met again, and noted again.
    if (set.root.signed.version >= version) await this.#deleteForRecovery();
  }

  async #deleteForRecovery(): Promise<void> {
    await this.#store.remove('timestamp.json');
    await this.#store.remove('snapshot.json');
    await this.#store.remove(RECOVERY);
  }

  async #restore(
    role: Exclude<TopLevelRole, 'root'>,
    maxBytes: number,
    accept: (bytes: Uint8Array) => void,
  ): Promise<void> {
    const bytes = await this.#store.read(`${role}.json`, maxBytes);
    if (bytes === undefined) return;
    try {
      accept(bytes);
    } catch (error) {
      // Damaged, or signed by keys that aren't trusted any more: not trusted, and fetched anew.
      if (!(error instanceof SitecastError)) throw error;
    }
  }
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

function usableRoot(
  bytes: Uint8Array,
  nowMs: number,
  verify: VerifySignature | undefined,
): TrustedSet | undefined {
  try {
    return new TrustedSet(bytes, nowMs, verify);
  } catch (error) {
    // A damaged copy; there are others.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}
