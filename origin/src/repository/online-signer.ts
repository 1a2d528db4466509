import { SitecastError } from '@sitecast/shared/errors';
import { type KeyPair, ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { Metadata, TargetFile } from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';
import { errorFields, type Log } from '../log.ts';
import { type ClockDoubt, clockDoubt, type ClockLeaps, demandClock, isDay, issuedMsOf } from './clock.ts';
import { type CommitPlan, targetFilesOf } from './commit-plan.ts';
import { type Committed, signersOf } from './committed.ts';
import { signOnlineRoles, unsignedRoles } from './online-roles.ts';
import type { LeapNote, NewTarget, RepositoryStore, VersionFloor } from './repository-store.ts';

interface OnlineSignerDeps {
  keys: OnlineKeys;
  now: () => number;
  leaps: ClockLeaps;
  published: Pick<RepositoryStore, 'deferredRollouts' | 'deferRollouts'>;
  /** The day that an operator has confirmed, although it is long after the last timestamp. */
  acceptedDay?: string | undefined;
  log: Log;
}

/** What is to be signed. */
interface Wanted {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  previous: Committed | undefined;
  /** What the rollouts role is to list. Without it, the role lists what it listed before, and `rollouts`. */
  rolloutsTargets?: Record<string, TargetFile> | undefined;
  /** The same for the deltas role. */
  deltasTargets?: Record<string, TargetFile> | undefined;
  /** Rollout files that are to go out, by target name. */
  rollouts?: ReadonlyMap<string, Buffer>;
  floor: VersionFloor;
}

/** The next whole state, and what a commit of it needs besides. */
interface SignedState extends Pick<CommitPlan, 'publishesDeferred'> {
  next: Committed;
  /** The roles that are due and could not be signed. */
  unsigned: OnlineRole[];
  /** Rollout files that go out with it: the wanted ones, and those that waited for a key. */
  targetFiles: (NewTarget & { bytes: Buffer })[];
  leap: LeapNote;
}

/** Signs for the origin, if its keys and its clock are fit for it. */
export class OnlineSigner {
  readonly #deps: OnlineSignerDeps;
  #seenIssuedMs = 0;

  constructor(deps: OnlineSignerDeps) {
    this.#deps = deps;
  }

  /** Notes that this origin issued a timestamp at that time, although the data directory doesn't have it. */
  noteIssued(issuedMs: number): void {
    this.#seenIssuedMs = Math.max(this.#seenIssuedMs, issuedMs);
  }

  /** Why the clock isn't believed. */
  clockDoubt(committed: Committed | undefined): ClockDoubt | undefined {
    const { now, acceptedDay } = this.#deps;
    const nowMs = now();
    const leaptMs = this.#leaptMs(nowMs, committed);
    return clockDoubt({ committed, nowMs, seenIssuedMs: this.#seenIssuedMs, leaptMs, acceptedDay });
  }

  /** The roles that the origin can't sign, and what is wrong with the key of each. */
  missingKeys({
    root,
    targets,
  }: Pick<Committed, 'root' | 'targets'>): { role: OnlineRole; problem: string }[] {
    return ONLINE_ROLES.flatMap(role => {
      if (this.#find(role, root, targets)) return [];
      return [{ role, problem: this.#deps.keys.problemOf(role) }];
    });
  }

  /** @throws SITECAST_ONLINE_KEY_MISSING, SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET */
  require(role: OnlineRole, committed: Committed): KeyPair {
    demandClock(this.clockDoubt(committed));
    const signer = this.#find(role, committed.root, committed.targets);
    if (signer) return signer;
    throw this.#keyMissing(role);
  }

  /** Called when a state that was signed here or adopted is in force. */
  async committed({ previous, next, leap, publishesDeferred = false }: CommitPlan): Promise<void> {
    const { leaps, published, log } = this.#deps;
    if (leap && previous?.timestamp !== next.timestamp) leaps.signed(leap.leaptMs);
    try {
      if (publishesDeferred) await published.deferRollouts(new Map());
    } catch (error) {
      log.warn(errorFields(error), 'rollouts that are published may be published again at the next start');
    }
  }

  /** @throws as `require`; SITECAST_METADATA_TOO_LARGE */
  async sign(wanted: Wanted): Promise<SignedState> {
    const { now, acceptedDay, log } = this.#deps;
    const doubt = this.clockDoubt(wanted.previous);
    demandClock(doubt);
    if (doubt) log.warn({ code: doubt.code, detail: doubt.message }, 'the clock is behind: `issued` stays');
    const signerOf = (role: OnlineRole) => this.#find(role, wanted.root, wanted.targets);
    const keyMissing = (role: OnlineRole) => this.#keyMissing(role);
    const nowMs = now();
    const { rollouts, publishesDeferred } = await this.#rolloutsOf(wanted);
    const rolloutsTargets = wanted.rolloutsTargets ?? withFiles(wanted.previous, rollouts);
    const input = { ...wanted, rolloutsTargets, signerOf, keyMissing, nowMs };
    const next = await signOnlineRoles(input);
    const leaptMs = isDay(nowMs, acceptedDay) ? 0 : this.#leaptMs(nowMs, wanted.previous);
    const leap = { leaptMs, issuedMs: issuedMsOf(next.timestamp) };
    const unsigned = unsignedRoles(next, input);
    return { next, unsigned, targetFiles: rollouts, publishesDeferred, leap };
  }

  async #rolloutsOf(wanted: Wanted) {
    const byName = await this.#deps.published.deferredRollouts();
    const canSignAll = this.missingKeys(wanted).every(({ role }) => role === 'deltas');
    const publishesDeferred = canSignAll && byName.size > 0;
    const { rollouts = new Map<string, Buffer>() } = wanted;
    const files = publishesDeferred ? new Map([...byName, ...rollouts]) : rollouts;
    return { rollouts: targetFilesOf(files), publishesDeferred };
  }

  #leaptMs(nowMs: number, committed: Committed | undefined): number {
    const issuedMs = committed ? issuedMsOf(committed.timestamp) : 0;
    return this.#deps.leaps.total(nowMs, Math.max(issuedMs, this.#seenIssuedMs));
  }

  #keyMissing(role: OnlineRole): SitecastError {
    return onlineKeyMissing(role, this.#deps.keys.problemOf(role));
  }

  #find(role: OnlineRole, root: Metadata<'root'>, targets: Metadata<'targets'>): KeyPair | undefined {
    const [keyId] = signersOf(role, root.signed, targets.signed).keyids;
    return keyId === undefined ? undefined : this.#deps.keys.withId(role, keyId);
  }
}

function withFiles(
  previous: Committed | undefined,
  files: ReturnType<typeof targetFilesOf>,
): Record<string, TargetFile> | undefined {
  if (files.length === 0) return undefined;
  const listed = files.map(({ name, sha256, bytes }) => [name, { length: bytes.length, hashes: { sha256 } }]);
  return { ...previous?.rollouts.signed.targets, ...Object.fromEntries(listed) };
}

function onlineKeyMissing(role: OnlineRole, problem: string): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_ONLINE_KEY_MISSING',
    `the origin can't sign ${role}: ${problem}`,
    {
      hint: `Bring keys/${role}.pem back from a backup and restart the origin, or rotate the key: sitecast keys rotate ${role}.`,
      data: { role },
    },
  );
}
