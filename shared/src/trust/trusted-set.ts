import { findMismatch } from './file-check.ts';
import { type Clock, clockOf, issuedMsOf } from './clock.ts';
import {
  type Metadata,
  type MetadataType,
  type MetaFile,
  parseMetadata,
  type SignedRoot,
  type SignedSnapshot,
  toDateTime,
  type TopLevelRole,
} from './metadata.ts';
import { keyIdentityOf, verifySignature } from './keys.ts';
import { type CheckedAt, mismatch, refusal, rollback } from './refusals.ts';
import type { VerifySignature } from './signature-memory.ts';
import { type RoleSigners, topLevelSigners, verifyThreshold } from './signing.ts';

/**
 * What a client trusts. Nothing becomes trusted in another way than through this class: it is the workflow of TUF 1.0 section 5, and names
 * each check by its step. It does no I/O. The caller fetches and stores, and calls in this order:
 *
 * `begin` → `updateRoot`… → `checkRootExpiry` → `updateTimestamp` → `checkTimestampExpiry` → (`updateSnapshot`) → `checkSnapshotExpiry` →
 * (`updateTargets`) → `checkTargetsExpiry` → `verifyDelegated`…
 *
 * A method that throws changes nothing.
 */
export class TrustedSet {
  #root: Metadata<'root'>;
  #timestamp: Metadata<'timestamp'> | undefined;
  #snapshot: Metadata<'snapshot'> | undefined;
  #targets: Metadata<'targets'> | undefined;
  #startMs: number;
  readonly #verify: VerifySignature;

  /**
   * Section 5.2: the root that was delivered out of band, or the one stored last. It must carry the signatures that it demands itself. Its
   * expiry isn't checked yet.
   * @param verify checks a signature
   */
  constructor(rootBytes: Uint8Array, nowMs: number, verify: VerifySignature = verifySignature) {
    const root = parseMetadata(rootBytes, 'root');
    verifyThreshold(root, topLevelSigners(root.signed, 'root'), { role: 'root', step: '5.2' }, verify);
    this.#root = root;
    this.#verify = verify;
    this.#startMs = nowMs;
  }

  get root(): Metadata<'root'> {
    return this.#root;
  }
  /** The newest accepted one; it may have expired since. */
  get timestamp(): Metadata<'timestamp'> | undefined {
    return this.#timestamp;
  }
  /** The newest accepted one. After an interrupted update it can be older than the timestamp's: see `isSnapshotCurrent`. */
  get snapshot(): Metadata<'snapshot'> | undefined {
    return this.#snapshot;
  }
  /** The newest accepted one; see `isTargetsCurrent`. */
  get targets(): Metadata<'targets'> | undefined {
    return this.#targets;
  }

  /** Section 5.1: the whole update uses one time. */
  begin(nowMs: number): void {
    this.#startMs = nowMs;
  }

  /** What the trusted timestamp says about a clock. */
  clockAt(nowMs: number): Clock {
    return clockOf(this.#timestamp?.signed, nowMs);
  }

  /**
   * Sections 5.3.4 to 5.3.7, and 5.3.11.
   * @returns whether keys of the timestamp or snapshot role were revoked; their files aren't trusted any more then
   */
  updateRoot(bytes: Uint8Array): { isRecovery: boolean } {
    const role = 'root';
    const next = parseMetadata(bytes, role);
    // 5.3.4: signed by a threshold of the trusted root's keys, and of its own.
    verifyThreshold(next, topLevelSigners(this.#root.signed, role), { role, step: '5.3.4' }, this.#verify);
    verifyThreshold(next, topLevelSigners(next.signed, role), { role, step: '5.3.4' }, this.#verify);
    // 5.3.5: exactly the next version.
    const trusted = this.#root.signed.version;
    if (next.signed.version <= trusted) throw rollback({ role, step: '5.3.5' }, trusted, next.signed.version);
    if (next.signed.version !== trusted + 1)
      throw mismatch({ role, step: '5.3.5' }, `version ${next.signed.version} instead of ${trusted + 1}`);
    // 5.3.11: an attacker who held these keys may have raised the versions. The keys were revoked, so the files that they signed must not
    // be a floor.
    const isRecovery = hasLostKey(this.#root.signed, next.signed);
    if (isRecovery) this.forgetTimestampAndSnapshot();
    this.#root = next; // 5.3.7
    return { isRecovery };
  }

  /** Section 5.3.11, also for an update that was interrupted after the root was stored. */
  forgetTimestampAndSnapshot(): void {
    this.#timestamp = undefined;
    this.#snapshot = undefined;
  }

  /** Section 5.3.10. */
  checkRootExpiry(): void {
    this.#checkExpiry(this.#root, { role: 'root', step: '5.3.10' });
  }

  /**
   * Sections 5.4.2 to 5.4.4.
   * @returns false if this version is trusted already, so nothing has changed
   */
  updateTimestamp(bytes: Uint8Array): boolean {
    const role = 'timestamp';
    const next = this.#verified(bytes, role, '5.4.2');
    if (this.#timestamp) {
      const trusted = this.#timestamp.signed;
      // 5.4.3.1: not older than the trusted one. The same version is no error.
      if (next.signed.version < trusted.version)
        throw rollback({ role, step: '5.4.3.1' }, trusted.version, next.signed.version);
      if (next.signed.version === trusted.version) return false;
    }
    // 5.4.3.2: the snapshot must not be older either. The check uses the snapshot itself, too, so that the loss of the timestamp file
    // doesn't bypass it.
    const offered = next.signed.meta['snapshot.json'].version;
    const floor = Math.max(
      this.#timestamp?.signed.meta['snapshot.json'].version ?? 0,
      this.#snapshot?.signed.version ?? 0,
    );
    if (offered < floor) throw rollback({ role: 'snapshot', step: '5.4.3.2' }, floor, offered);
    // The check includes the file's own `issued`: a timestamp that expires before it was issued would be a floor that nothing can pass.
    this.#checkExpiry(next, { role, step: '5.4.4' }, issuedMsOf(next.signed));
    this.#timestamp = next;
    return true;
  }

  /** Section 5.4.4 for the trusted timestamp; and 5.3.10 again, because a timestamp can correct the time. */
  checkTimestampExpiry(): void {
    this.#checkExpiry(this.#trusted('timestamp', this.#timestamp), { role: 'timestamp', step: '5.4.4' });
    this.checkRootExpiry();
  }

  /** What the timestamp says about the snapshot. */
  get snapshotFile(): MetaFile {
    return this.#trusted('timestamp', this.#timestamp).signed.meta['snapshot.json'];
  }

  /** True if the trusted snapshot is the one that the timestamp names, so there is nothing to fetch. */
  get isSnapshotCurrent(): boolean {
    return this.#timestamp !== undefined && isThatFile(this.#snapshot, this.snapshotFile);
  }

  /** Sections 5.5.2 to 5.5.6. */
  updateSnapshot(bytes: Uint8Array): void {
    const role = 'snapshot';
    const file = this.snapshotFile;
    checkFile(bytes, file, { role, step: '5.5.2' });
    const next = this.#verified(bytes, role, '5.5.3');
    checkVersion(next, file, { role, step: '5.5.4' });
    if (this.#snapshot) checkNothingGoesBack(this.#snapshot.signed, next.signed);
    this.#checkExpiry(next, { role, step: '5.5.6' });
    this.#snapshot = next;
  }

  /** Section 5.5.6 for the trusted snapshot. */
  checkSnapshotExpiry(): void {
    if (!this.isSnapshotCurrent) throw incomplete('snapshot');
    this.#checkExpiry(this.#trusted('snapshot', this.#snapshot), { role: 'snapshot', step: '5.5.6' });
  }

  /** What the snapshot says about a targets role; undefined if it doesn't list it. */
  targetsFile(role: string): MetaFile | undefined {
    const { meta } = this.#trusted('snapshot', this.#snapshot).signed;
    const name = `${role}.json`;
    return Object.hasOwn(meta, name) ? meta[name] : undefined;
  }

  /** True if the trusted top-level targets are those that the snapshot names. */
  get isTargetsCurrent(): boolean {
    return this.isSnapshotCurrent && isThatFile(this.#targets, this.targetsFile('targets'));
  }

  /** Sections 5.6.2 to 5.6.5 for the top-level targets. */
  updateTargets(bytes: Uint8Array): void {
    this.#targets = this.verifyDelegated(bytes, 'targets', topLevelSigners(this.#root.signed, 'targets'));
  }

  /** Section 5.6.5 for the trusted top-level targets. */
  checkTargetsExpiry(): void {
    if (!this.isTargetsCurrent) throw incomplete('targets');
    this.#checkExpiry(this.#trusted('targets', this.#targets), { role: 'targets', step: '5.6.5' });
  }

  /**
   * Sections 5.6.2 to 5.6.5 for a targets role, signed as its delegator demands. The result isn't kept, because another delegator may lead
   * to the same file and trust other keys.
   */
  verifyDelegated(bytes: Uint8Array, role: string, signers: RoleSigners): Metadata<'targets'> {
    const file = this.targetsFile(role);
    if (!file) throw mismatch({ role, step: '5.6.4' }, 'the snapshot does not list it');
    checkFile(bytes, file, { role, step: '5.6.2' });
    const next = parseMetadata(bytes, 'targets');
    verifyThreshold(next, signers, { role, step: '5.6.3' }, this.#verify);
    checkVersion(next, file, { role, step: '5.6.4' });
    this.#checkExpiry(next, { role, step: '5.6.5' });
    return next;
  }

  /**
   * Restores what an earlier update stored. Signatures are checked against today's root; expiry and links aren't. An old file is still a
   * floor against rollback, and the checks above apply before it is used.
   */
  restoreTimestamp(bytes: Uint8Array): void {
    this.#timestamp = this.#verified(bytes, 'timestamp', '5.4.2');
  }
  restoreSnapshot(bytes: Uint8Array): void {
    this.#snapshot = this.#verified(bytes, 'snapshot', '5.5.3');
  }
  restoreTargets(bytes: Uint8Array): void {
    this.#targets = this.#verified(bytes, 'targets', '5.6.3');
  }

  #verified<T extends TopLevelRole>(bytes: Uint8Array, role: T, step: string): Metadata<T> {
    const next = parseMetadata(bytes, role);
    verifyThreshold(next, topLevelSigners(this.#root.signed, role), { role, step }, this.#verify);
    return next;
  }

  #trusted<T extends MetadataType>(role: T, found: Metadata<T> | undefined): Metadata<T> {
    if (found) return found;
    throw incomplete(role);
  }

  // A file must not expire before the start of the update. The `issued` of the trusted timestamp is a floor for that time: a device whose
  // clock starts in 1970 must not accept a year-old file as fresh.
  #checkExpiry(file: Metadata, at: CheckedAt, notBeforeMs = 0): void {
    const { expires } = file.signed;
    const clock = this.clockAt(this.#startMs);
    const timeMs = Math.max(this.#startMs, clock.issuedMs ?? 0, notBeforeMs);
    if (Date.parse(expires) > timeMs) return;
    // The file has expired by another time than the clock's, so the message names that time.
    const byTimestamp =
      clock.state === 'behind'
        ? `: the newest timestamp was signed at ${toDateTime(timeMs)}, though this clock says ${toDateTime(this.#startMs)}; one of the two clocks is wrong, this one or the origin's`
        : '';
    throw refusal(
      'SITECAST_METADATA_EXPIRED',
      `The ${at.role} metadata expired at ${expires}${byTimestamp}`,
      at,
      {
        expires,
        time: toDateTime(timeMs),
        clock: clock.state,
      },
    );
  }
}

function incomplete(role: string): Error {
  return refusal('SITECAST_TRUST_INCOMPLETE', `There is no current ${role} metadata: refresh first`, {
    role,
    step: '5',
  });
}

function checkFile(bytes: Uint8Array, file: MetaFile, at: CheckedAt): void {
  const why = findMismatch(bytes, file);
  if (why !== undefined) throw mismatch(at, why);
}

function checkVersion(found: Metadata, file: MetaFile, at: CheckedAt): void {
  const { version } = found.signed;
  if (version !== file.version) throw mismatch(at, `version ${version} instead of ${file.version}`);
}

function isThatFile(found: Metadata | undefined, file: MetaFile | undefined): boolean {
  return (
    found !== undefined &&
    file !== undefined &&
    found.signed.version === file.version &&
    findMismatch(found.bytes, file) === undefined
  );
}

/** Section 5.5.5: no targets role may get an older version, and none may be dropped. */
function checkNothingGoesBack(trusted: SignedSnapshot, next: SignedSnapshot): void {
  for (const [name, { version }] of Object.entries(trusted.meta)) {
    const role = name.replace(/\.json$/, '');
    const offered = Object.hasOwn(next.meta, name) ? next.meta[name] : undefined;
    const at = { role, step: '5.5.5' };
    if (!offered) throw refusal('SITECAST_ROLE_DROPPED', `The snapshot no longer lists ${role}`, at);
    if (offered.version < version) throw rollback(at, version, offered.version);
  }
}

/** True if a key of the timestamp or snapshot role was revoked. */
function hasLostKey(before: SignedRoot, after: SignedRoot): boolean {
  return (['timestamp', 'snapshot'] as const).some(role => {
    const kept = identitiesOf(after, role);
    return [...identitiesOf(before, role)].some(identity => !kept.has(identity));
  });
}

function identitiesOf({ keys, roles }: SignedRoot, role: TopLevelRole): Set<string> {
  const identities = roles[role].keyids.map(id => {
    const key = Object.hasOwn(keys, id) ? keys[id] : undefined;
    return (key && keyIdentityOf(key)) ?? `unusable:${id}`;
  });
  return new Set(identities);
}
