import { SitecastError } from '../errors.ts';
import type { TrustLimits } from './limits.ts';
import type { TopLevelRole } from './metadata.ts';
import { fileNameFor } from './names.ts';
import type { MetadataStore } from './ports.ts';
import type { VerifySignature } from './signature-memory.ts';
import { TrustedSet } from './trusted-set.ts';

// These names lack `.json`, so they differ from the file name of every role.
/** The root that was delivered out of band. It is never rewritten: it is the last resort if both other copies are lost. */
const PINNED_ROOT = 'root.pinned';
/** Written before root.json, with the same bytes, so that one damaged file loses nothing. */
const ROOT_COPY = 'root.copy';
/**
 * Marks a recovery. The file exists while a root that revokes keys of timestamp or snapshot is being stored, and until the files of those
 * roles are deleted.
 */
const RECOVERY = 'recovery';
const MAX_RECOVERY_BYTES = 16;

/**
 * What a client keeps on disk, and in which order it writes. Each write is atomic, and the power may fail between any two. Files of roles
 * have their names without a version (`root.json`, `timestamp.json`) and hold the bytes that the repository served.
 */
export class LocalTrust {
  readonly #store: MetadataStore;
  readonly #limits: TrustLimits;
  readonly #verify: VerifySignature | undefined;

  /** @param verify checks signatures, here and in the set that is loaded */
  constructor(store: MetadataStore, limits: TrustLimits, verify?: VerifySignature) {
    this.#store = store;
    this.#limits = limits;
    this.#verify = verify;
  }

  /**
   * Stores the root that was delivered out of band.
   * @returns `kept` if the store was initialised with it, or has followed the repository to it since; `other` if it was initialised with
   * another root, and nothing was changed
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
      // The record of the initial root is lost. The store accepts any valid root that is older than the trusted one in its place.
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
    // The pinned root comes first. With it alone `load` works, and `repairRoot` adds the others.
    await this.#store.write(PINNED_ROOT, rootBytes);
    await this.repairRoot(set);
    return 'created';
  }

  /**
   * Loads the stored files. Damaged ones count as absent, because the repository still has them.
   * @throws SITECAST_TRUST_UNINITIALISED (badInput) if there is no usable root
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
    // The mark comes first. If the power fails after the root is stored, `load` still knows what to delete.
    if (isRecovery) await this.#store.write(RECOVERY, Buffer.from(String(signed.version)));
    await this.#store.write(ROOT_COPY, bytes);
    await this.#store.write('root.json', bytes);
    if (isRecovery) await this.#deleteForRecovery();
  }

  /** Restores root files that were lost or damaged. */
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

  /** Undefined where it is missing or damaged. */
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
    // If the root wasn't stored, the update meets it again and marks the recovery again.
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
      // The file is damaged, or its keys aren't trusted any more. It is fetched again.
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
    // This copy is damaged. There are others.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}
