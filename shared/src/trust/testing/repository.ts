import { createHash } from 'node:crypto';
import { SitecastError } from '../../errors.ts';
import { KeyPair } from '../../signing/index.ts';
import type {
  DelegatedRole,
  Delegations,
  MetaFile,
  RoleKeys,
  SignedByType,
  SignedRoot,
  SignedSnapshot,
  SignedTargets,
  SignedTimestamp,
} from '../metadata.ts';
import { isTopLevelRole, toDateTime } from '../metadata.ts';
import { metadataPath, targetPath } from '../names.ts';
import type { MetadataFetcher } from '../ports.ts';
import { type Signer, signMetadata } from '../signing.ts';

const DAY_MS = 24 * 3_600_000;

/** A new Ed25519 key that signs in memory. */
export function newSigner(): Signer {
  const pair = KeyPair.generate();
  return { key: pair.key, keyId: pair.keyId, sign: bytes => pair.sign(bytes) };
}

/** A file that never ends. */
export const ENDLESS = Symbol('endless');

/**
 * A TUF repository in memory, for tests. A test changes what it will say (`root`, `snapshot`, …) and who signs it (`signers`), then calls
 * `publish`. Nothing is checked, so that a test can build any attack. All else stays correctly signed.
 */
export class TestRepository {
  /** The signers' clock, milliseconds since 1970. */
  nowMs: number;
  /** Who signs each role's next file. */
  readonly signers = new Map<string, Signer[]>();
  /** By path below the repository: `metadata/1.root.json`, `targets/…`, `chunks/…`. */
  readonly files = new Map<string, Uint8Array | typeof ENDLESS>();
  /** The paths requested through `metadata` and `targetFiles`, in order. */
  readonly requests: string[] = [];
  readonly delegated = new Map<string, SignedTargets>();
  root: SignedRoot;
  timestamp: SignedTimestamp;
  snapshot: SignedSnapshot;
  targets: SignedTargets;
  /** Whether snapshot and timestamp list lengths and hashes as well. */
  listsHashes = false;
  readonly #published = new Set<string>();

  protected constructor(nowMs: number) {
    this.nowMs = nowMs;
    const common = { spec_version: '1.0.31', version: 1, expires: this.inDays(30) };
    const nobody = (): RoleKeys => ({ keyids: [], threshold: 1 });
    this.root = {
      _type: 'root',
      ...common,
      consistent_snapshot: true,
      keys: {},
      roles: { root: nobody(), timestamp: nobody(), snapshot: nobody(), targets: nobody() },
    };
    this.timestamp = {
      _type: 'timestamp',
      ...common,
      issued: this.inDays(0),
      meta: { 'snapshot.json': { version: 1 } },
    };
    this.snapshot = { _type: 'snapshot', ...common, meta: {} };
    this.targets = { _type: 'targets', ...common, targets: {} };
  }

  /** A repository with one key per role, and version 1 of everything published. */
  static async create(nowMs = Date.now()): Promise<TestRepository> {
    const repository = new TestRepository(nowMs);
    await repository.begin();
    return repository;
  }

  protected async begin(): Promise<void> {
    for (const role of ['root', 'timestamp', 'snapshot', 'targets'] as const)
      this.setSigners(role, [newSigner()]);
    await this.publish('root', 'targets', 'snapshot', 'timestamp');
  }

  inDays(days: number): string {
    return toDateTime(this.nowMs + days * DAY_MS);
  }

  /** Lists the signers of a top-level role in the root, and makes them sign. */
  setSigners(role: keyof SignedRoot['roles'], signers: Signer[], threshold = signers.length): void {
    this.root = {
      ...this.root,
      keys: { ...this.root.keys, ...Object.fromEntries(signers.map(({ keyId, key }) => [keyId, key])) },
      roles: { ...this.root.roles, [role]: { keyids: signers.map(({ keyId }) => keyId), threshold } },
    };
    this.signers.set(role, signers);
  }

  /** Adds a delegation at the end of its delegator's list, to a role with a key of its own. It creates the role if it is new. */
  delegate(
    delegator: string,
    name: string,
    delegation: Partial<DelegatedRole> = { paths: ['*'] },
    signers = [newSigner()],
  ): void {
    const from = this.targetsOf(delegator);
    const delegations: Delegations = (from.delegations ??= { keys: {}, roles: [] });
    for (const { keyId, key } of signers) delegations.keys[keyId] = key;
    delegations.roles?.push({
      name,
      keyids: signers.map(({ keyId }) => keyId),
      threshold: signers.length,
      terminating: false,
      ...delegation,
    });
    this.signers.set(name, [...new Set([...(this.signers.get(name) ?? []), ...signers])]);
    if (!this.delegated.has(name)) {
      this.delegated.set(name, {
        _type: 'targets',
        spec_version: '1.0.31',
        version: 1,
        expires: this.inDays(30),
        targets: {},
      });
    }
  }

  targetsOf(role: string): SignedTargets {
    const found = role === 'targets' ? this.targets : this.delegated.get(role);
    if (!found) throw new Error(`there is no role ${role}`);
    return found;
  }

  /** Lists a target file and stores it. */
  addTarget(role: string, name: string, content: string | Uint8Array): void {
    const bytes = Buffer.from(content);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    this.targetsOf(role).targets[name] = { length: bytes.length, hashes: { sha256 } };
    this.files.set(`targets/${targetPath(name, this.root.consistent_snapshot ? sha256 : undefined)}`, bytes);
  }

  /** Signs and stores the next version of each role, in this order, and then of snapshot and timestamp. */
  async publish(...roles: string[]): Promise<void> {
    for (const role of roles) {
      const signed = this.#signedOf(role);
      if (this.#published.has(role)) signed.version += 1;
      this.#published.add(role);
      await this.layOut(role);
    }
  }

  /** As `publish`, for a role and all roles that refer to it. */
  async publishWithSnapshot(...roles: string[]): Promise<void> {
    await this.publish(...roles, 'snapshot', 'timestamp');
  }

  /** Signs a role without a change of its version, and stores it. */
  async layOut(role: string): Promise<void> {
    const signed = this.#signedOf(role);
    const bytes = await signMetadata(signed, this.signers.get(role) ?? []);
    this.files.set(this.pathOf(role, signed.version), bytes);
    const file: MetaFile = { version: signed.version };
    if (this.listsHashes) {
      file.length = bytes.length;
      file.hashes = { sha256: createHash('sha256').update(bytes).digest('hex') };
    }
    if (role === 'snapshot') this.timestamp.meta['snapshot.json'] = file;
    else if (role === 'targets' || !isTopLevelRole(role)) this.snapshot.meta[`${role}.json`] = file;
  }

  /** The path of a role's file. */
  pathOf(role: string, version = this.#signedOf(role).version): string {
    const isVersioned = role === 'root' || (role !== 'timestamp' && this.root.consistent_snapshot === true);
    return `metadata/${metadataPath(role, isVersioned ? version : undefined)}`;
  }

  /** The bytes of a role's newest file. */
  bytesOf(role: string, version?: number): Uint8Array {
    const bytes = this.files.get(this.pathOf(role, version));
    if (!(bytes instanceof Uint8Array)) throw new Error(`nothing is published for ${role}`);
    return bytes;
  }

  /** The files of the repository at this moment. A test serves them again later, as an attacker would. */
  snapshotOfFiles(): Map<string, Uint8Array | typeof ENDLESS> {
    return new Map(this.files);
  }

  readonly metadata: MetadataFetcher = {
    fetch: async (path, { maxBytes }) => this.#fetch(`metadata/${path}`, maxBytes),
  };
  readonly targetFiles: MetadataFetcher = {
    fetch: async (path, { maxBytes }) => this.#fetch(`targets/${path}`, maxBytes),
  };

  #fetch(path: string, maxBytes: number): Uint8Array | undefined {
    this.requests.push(path);
    const bytes = this.files.get(path);
    if (bytes === undefined) return undefined;
    if (bytes === ENDLESS || bytes.length > maxBytes) {
      throw new SitecastError('tooLarge', 'SITECAST_DOWNLOAD_TOO_LARGE', `more than ${maxBytes} bytes`, {
        data: { path, maxBytes },
      });
    }
    return bytes;
  }

  #signedOf(role: string): SignedByType[keyof SignedByType] {
    return isTopLevelRole(role) ? this[role] : this.targetsOf(role);
  }
}
