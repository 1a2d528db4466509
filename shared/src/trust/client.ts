import pLimit from 'p-limit';
import { SitecastError } from '../errors.ts';
import type { Clock } from './clock.ts';
import { matchingDelegations } from './delegation.ts';
import { findMismatch, namingDigest } from './file-check.ts';
import { DEFAULT_TRUST_LIMITS, type TrustLimits } from './limits.ts';
import { LocalTrust } from './local-trust.ts';
import { type Metadata, type MetaFile, parseMetadata, type TargetFile } from './metadata.ts';
import { metadataPath, targetPath } from './names.ts';
import type { MetadataFetcher, MetadataStore } from './ports.ts';
import { type CheckedAt, missing } from './refusals.ts';
import type { VerifySignature } from './signature-memory.ts';
import { delegatedSigners, type RoleSigners } from './signing.ts';
import type { TrustedSet } from './trusted-set.ts';

export interface TufClientOptions {
  store: MetadataStore;
  /** Provides metadata files. */
  fetcher: MetadataFetcher;
  /** Provides target files; only `fetchTarget` uses it. */
  targetFetcher?: MetadataFetcher | undefined;
  /** Milliseconds since 1970. */
  now: () => number;
  limits?: Partial<TrustLimits>;
  /** Checks a signature. A caller that reads the same metadata several times passes one that remembers. */
  verify?: VerifySignature | undefined;
}

/** The path of a file with a version: its number, and the role, whose name needs no quoting. */
const VERSIONED = /^(\d{1,15})\.([A-Za-z0-9_-]{1,100})\.json$/;

interface CallOptions {
  signal?: AbortSignal | undefined;
}

/** What signed metadata says about a target file, and the role that says it. */
export interface FoundTarget {
  name: string;
  role: string;
  file: TargetFile;
}

/**
 * A TUF client (specification 1.0, section 5). It follows a repository from a root that was delivered out of band.
 *
 * ```ts
 * const store = new DirectoryMetadataStore(directory);
 * await TufClient.init(store, rootBytes, Date.now());
 * const client = await TufClient.open({ store, fetcher, targetFetcher, now: Date.now });
 * await client.refresh();
 * const found = await client.findTarget('releases/camera-2.json');
 * const bytes = found && (await client.fetchTarget(found));
 * ```
 *
 * What `refresh` accepted before it failed stays accepted and stored. The next one continues from there.
 * Calls run one after the other.
 */
export class TufClient {
  readonly #options: TufClientOptions;
  readonly #limits: TrustLimits;
  readonly #local: LocalTrust;
  readonly #set: TrustedSet;
  readonly #turn = pLimit(1);

  private constructor(options: TufClientOptions, limits: TrustLimits, local: LocalTrust, set: TrustedSet) {
    this.#options = options;
    this.#limits = limits;
    this.#local = local;
    this.#set = set;
  }

  /**
   * Initialises a store with the root that was delivered out of band. It makes no request.
   * @returns `kept` if the store was initialised with the same root, or has followed the repository to it since; `other` if it was
   * initialised with another root (nothing is changed then)
   * @throws SITECAST_METADATA_MALFORMED, SITECAST_SIGNATURES_MISSING (untrusted)
   */
  static async init(
    store: MetadataStore,
    rootBytes: Uint8Array,
    nowMs: number,
    limits: Partial<TrustLimits> = {},
  ): Promise<'created' | 'kept' | 'other'> {
    return new LocalTrust(store, { ...DEFAULT_TRUST_LIMITS, ...limits }).initialise(rootBytes, nowMs);
  }

  /**
   * Loads the stored files. It makes no request.
   * @throws SITECAST_TRUST_UNINITIALISED (badInput)
   */
  static async open(options: TufClientOptions): Promise<TufClient> {
    const limits = { ...DEFAULT_TRUST_LIMITS, ...options.limits };
    const local = new LocalTrust(options.store, limits, options.verify);
    return new TufClient(options, limits, local, await local.load(options.now()));
  }

  /** What is trusted so far. `isComplete` and `checkFresh` tell whether it is complete and fresh. */
  get trusted(): Pick<TrustedSet, 'root' | 'timestamp' | 'snapshot' | 'targets'> {
    return this.#set;
  }

  /** True if timestamp, snapshot and top-level targets belong together; expired or not. */
  get isComplete(): boolean {
    return this.#set.isTargetsCurrent;
  }

  /**
   * Metadata that this client holds, for others that follow the same repository: as long as they belong together, and of a delegated role only
   * the version that the snapshot lists.
   * @param path in the repository, such as `7.rollouts.json`
   * @returns its bytes, as they were signed; undefined where it isn't here
   */
  async held(path: string): Promise<Uint8Array | undefined> {
    const topLevel = this.#heldTopLevel(path);
    if (topLevel) return topLevel;
    const [, version, role] = VERSIONED.exec(path) ?? [];
    if (role === undefined || !this.isComplete || !this.#isVersioned) return undefined;
    if (this.#set.targetsFile(role)?.version !== Number(version)) return undefined;
    const bytes = await this.#local.readDelegated(role);
    return bytes && versionIn(bytes) === Number(version) ? bytes : undefined;
  }

  #heldTopLevel(path: string): Uint8Array | undefined {
    const { root, timestamp, snapshot, targets } = this.#set;
    if (path === metadataPath('root', root.signed.version)) return root.bytes;
    if (!this.isComplete || !this.#isVersioned) return undefined;
    if (path === metadataPath('timestamp', undefined)) return timestamp?.bytes;
    if (path === metadataPath('snapshot', snapshot?.signed.version)) return snapshot?.bytes;
    return path === metadataPath('targets', targets?.signed.version) ? targets?.bytes : undefined;
  }

  /** 5.3.12 */
  get #isVersioned(): boolean {
    return this.#set.root.signed.consistent_snapshot === true;
  }

  /** What the trusted timestamp says about the clock, now. */
  clock(): Clock {
    return this.#set.clockAt(this.#options.now());
  }

  /**
   * Sections 5.1 to 5.6.6: follows the root, then timestamp, snapshot and top-level targets.
   * @throws the codes of docs/ERRORS.md under "Trust", kinds untrusted, tooLarge, notFound, unreachable
   */
  async refresh({ signal }: CallOptions = {}): Promise<void> {
    return this.#turn(async () => {
      this.#set.begin(this.#options.now());
      await this.#followRoot(signal);
      await this.#updateTimestamp(signal);
      await this.#updateSnapshot(signal);
      await this.#updateTargets(signal);
    });
  }

  /**
   * Checks that the trusted set is complete, and was unexpired at the time of the last `refresh` or `open`.
   * @throws SITECAST_TRUST_INCOMPLETE, SITECAST_METADATA_EXPIRED (untrusted)
   */
  checkFresh(): void {
    this.#set.checkRootExpiry();
    this.#set.checkTimestampExpiry();
    this.#set.checkSnapshotExpiry();
    this.#set.checkTargetsExpiry();
  }

  /**
   * Section 5.6.7: searches for a target, in pre-order, along the delegations.
   * @returns undefined if no role that may list the target does
   * @throws the errors of a role on the way that can't be fetched or verified, which end the search; SITECAST_DELEGATIONS_EXCEEDED
   * (untrusted)
   */
  async findTarget(name: string, { signal }: CallOptions = {}): Promise<FoundTarget | undefined> {
    return this.#turn(async () => {
      this.checkFresh();
      return this.#search(name, signal);
    });
  }

  /**
   * The metadata of a role that the top-level targets delegate to.
   * @throws SITECAST_ROLE_UNKNOWN (notFound); else as `findTarget`
   */
  async loadDelegated(role: string, { signal }: CallOptions = {}): Promise<Metadata<'targets'>> {
    return this.#turn(async () => {
      this.checkFresh();
      const signers = delegatedSigners(this.#set.targets?.signed.delegations, role);
      if (!signers) {
        throw new SitecastError(
          'notFound',
          'SITECAST_ROLE_UNKNOWN',
          'The targets metadata delegates to no such role',
          {
            data: { role },
          },
        );
      }
      return this.#loadDelegated(role, signers, signal);
    });
  }

  /**
   * Section 5.7: fetches a target file into memory and checks it.
   * @throws SITECAST_TARGET_MISMATCH (untrusted), SITECAST_TARGET_MISSING (notFound),
   *   SITECAST_TARGET_NAME_REFUSED (untrusted), SITECAST_DOWNLOAD_TOO_LARGE (tooLarge)
   */
  async fetchTarget(
    target: FoundTarget,
    { signal, onSent }: CallOptions & Pick<Parameters<MetadataFetcher['fetch']>[1], 'onSent'> = {},
  ): Promise<Uint8Array> {
    const { name, file } = target;
    const { targetFetcher } = this.#options;
    if (!targetFetcher) throw new TypeError('this client was opened without a targetFetcher');
    const maxBytes = Math.min(file.length, this.#limits.maxTargetFileBytes);
    const digest = this.#isVersioned ? namingDigest(file.hashes) : undefined;
    const path = targetPath(name, digest);
    const bytes = await targetFetcher.fetch(path, { maxBytes, signal, onSent });
    if (bytes === undefined) {
      throw new SitecastError('notFound', 'SITECAST_TARGET_MISSING', `The repository has no file ${path}`, {
        data: { target: name, path },
      });
    }
    checkTarget(target, bytes);
    return bytes;
  }

  async #followRoot(signal: AbortSignal | undefined): Promise<void> {
    for (let fetched = 0; fetched < this.#limits.maxRootRotations; fetched += 1) {
      // 5.3.3
      const path = metadataPath('root', this.#set.root.signed.version + 1);
      const { maxRootBytes } = this.#limits;
      const bytes = await this.#options.fetcher.fetch(path, { maxBytes: maxRootBytes, signal });
      if (bytes === undefined) break;
      const { isRecovery } = this.#set.updateRoot(bytes);
      await this.#local.saveRoot(this.#set, isRecovery); // 5.3.8
    }
    await this.#local.repairRoot(this.#set);
    this.#set.checkRootExpiry();
  }

  async #updateTimestamp(signal: AbortSignal | undefined): Promise<void> {
    const path = metadataPath('timestamp', undefined);
    const { maxTimestampBytes } = this.#limits;
    const bytes = await this.#options.fetcher.fetch(path, { maxBytes: maxTimestampBytes, signal });
    if (bytes === undefined) throw missing({ role: 'timestamp', step: '5.4.1' }, path);
    if (this.#set.updateTimestamp(bytes)) await this.#local.save('timestamp', bytes);
    this.#set.checkTimestampExpiry();
  }

  async #updateSnapshot(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#set.isSnapshotCurrent) {
      const at = { role: 'snapshot', step: '5.5.1' };
      const { maxSnapshotBytes } = this.#limits;
      const bytes = await this.#fetchListed(at, this.#set.snapshotFile, maxSnapshotBytes, signal);
      this.#set.updateSnapshot(bytes);
      await this.#local.save('snapshot', bytes);
    }
    this.#set.checkSnapshotExpiry();
  }

  async #updateTargets(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#set.isTargetsCurrent) {
      const at = { role: 'targets', step: '5.6.1' };
      const { maxTargetsBytes } = this.#limits;
      const bytes = await this.#fetchListed(at, this.#set.targetsFile('targets'), maxTargetsBytes, signal);
      this.#set.updateTargets(bytes);
      await this.#local.save('targets', bytes);
    }
    this.#set.checkTargetsExpiry();
  }

  async #fetchListed(
    at: CheckedAt,
    file: MetaFile | undefined,
    limitBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    const path = metadataPath(at.role, this.#isVersioned ? file?.version : undefined);
    if (file === undefined) throw missing(at, path);
    const maxBytes = Math.min(file.length ?? limitBytes, limitBytes);
    const bytes = await this.#options.fetcher.fetch(path, { maxBytes, signal });
    if (bytes === undefined) throw missing(at, path);
    return bytes;
  }

  async #search(name: string, signal: AbortSignal | undefined): Promise<FoundTarget | undefined> {
    const targets = this.#set.targets;
    if (!targets) return undefined; // `checkFresh` has checked that they exist
    const visited = new Set<string>();
    const ahead: Visit[] = [{ role: 'targets', depth: 0, load: async () => targets }];
    for (let next = ahead.pop(); next; next = ahead.pop()) {
      const { role, depth, load } = next;
      if (visited.has(role)) continue; // 5.6.7.1: cycles
      visited.add(role);
      this.#checkDelegationLimits(name, visited.size - 1, depth);
      const { signed } = await load();
      if (Object.hasOwn(signed.targets, name)) {
        const file = signed.targets[name];
        if (file) return { name, role, file };
      }
      const below: Visit[] = [];
      for (const found of signed.delegations ? matchingDelegations(signed.delegations, name) : []) {
        const { role, signers, isTerminating } = found;
        below.push({ role, depth: depth + 1, load: () => this.#loadDelegated(role, signers, signal) });
        if (!isTerminating) continue;
        // 5.6.7.2.1: roles after this one, here and further up, aren't searched.
        ahead.length = 0;
        break;
      }
      ahead.push(...below.reverse());
    }
    return undefined;
  }

  #checkDelegationLimits(target: string, delegatedRoles: number, depth: number): void {
    const { maxDelegatedRoles, maxDelegationDepth } = this.#limits;
    if (delegatedRoles <= maxDelegatedRoles && depth <= maxDelegationDepth) return;
    throw new SitecastError(
      'untrusted',
      'SITECAST_DELEGATIONS_EXCEEDED',
      `Looking for a target led through more than ${maxDelegatedRoles} roles, or more than ${maxDelegationDepth} deep`,
      { data: { target, maxDelegatedRoles, maxDelegationDepth } },
    );
  }

  // A stored file passes the same checks as a fetched one: its delegator may trust other keys now.
  async #loadDelegated(
    role: string,
    signers: RoleSigners,
    signal: AbortSignal | undefined,
  ): Promise<Metadata<'targets'>> {
    const stored = await this.#local.readDelegated(role);
    if (stored !== undefined) {
      try {
        return this.#set.verifyDelegated(stored, role, signers);
      } catch (error) {
        // The file is damaged, out of date, or signed by another delegator's keys. It is fetched again.
        if (!(error instanceof SitecastError)) throw error;
      }
    }
    const at = { role, step: '5.6.7' };
    const bytes = await this.#fetchListed(
      at,
      this.#set.targetsFile(role),
      this.#limits.maxTargetsBytes,
      signal,
    );
    const metadata = this.#set.verifyDelegated(bytes, role, signers);
    await this.#local.saveDelegated(role, bytes);
    return metadata;
  }
}

/** Of stored metadata, which is verified by whoever gets it; undefined where it is damaged. */
function versionIn(bytes: Uint8Array): number | undefined {
  try {
    return parseMetadata(bytes, 'targets').signed.version;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

interface Visit {
  role: string;
  depth: number;
  load: () => Promise<Metadata<'targets'>>;
}

/**
 * Compares a target file's bytes with what the metadata says.
 * @throws SITECAST_TARGET_MISMATCH (untrusted)
 */
export function checkTarget({ name, file }: Pick<FoundTarget, 'name' | 'file'>, bytes: Uint8Array): void {
  const why = findMismatch(bytes, file);
  if (why === undefined) return;
  throw new SitecastError(
    'untrusted',
    'SITECAST_TARGET_MISMATCH',
    `The file ${JSON.stringify(name)} isn't the one that was signed: ${why}`,
    { data: { target: name, step: '5.7.3' } },
  );
}
