import { SitecastError } from '@sitecast/shared/errors';
import { type KeyPair, ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { Metadata, TargetFile } from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';
import type { Log } from '../log.ts';
import { type ClockDoubt, clockDoubt, demandClock } from './clock.ts';
import { type Committed, signersOf } from './committed.ts';
import { signOnlineRoles, unsignedRoles, type VersionFloor } from './online-roles.ts';

interface OnlineSignerDeps {
  keys: OnlineKeys;
  now: () => number;
  /** The day that an operator has vouched for, though it's long after what was signed last. */
  acceptedDay?: string | undefined;
  log: Log;
}

/** What is to be signed. */
interface Wanted {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  previous: Committed | undefined;
  /** What the rollouts role is to list; without it, what it lists already. */
  rolloutsTargets?: Record<string, TargetFile> | undefined;
  floor: VersionFloor;
}

/** Signs for the origin, where its keys and its clock are fit for it. */
export class OnlineSigner {
  readonly #deps: OnlineSignerDeps;
  #seenIssuedMs = 0;

  constructor(deps: OnlineSignerDeps) {
    this.#deps = deps;
  }

  /** A timestamp of this origin was issued then, though the data directory doesn't know of it. */
  noteIssued(issuedMs: number): void {
    this.#seenIssuedMs = Math.max(this.#seenIssuedMs, issuedMs);
  }

  /** Why the clock isn't believed. */
  clockDoubt(committed: Committed | undefined): ClockDoubt | undefined {
    const { now, acceptedDay } = this.#deps;
    return clockDoubt({ committed, nowMs: now(), seenIssuedMs: this.#seenIssuedMs, acceptedDay });
  }

  /** The roles whose keys the origin can't sign with, and what is wrong with each. */
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

  /**
   * The next whole state.
   * @returns also the roles that are due and could not be signed
   * @throws as `require`; SITECAST_METADATA_TOO_LARGE
   */
  async sign(wanted: Wanted): Promise<{ next: Committed; unsigned: OnlineRole[] }> {
    const { now, log } = this.#deps;
    const doubt = this.clockDoubt(wanted.previous);
    demandClock(doubt);
    if (doubt) log.warn({ code: doubt.code, detail: doubt.message }, 'the clock is behind: `issued` stays');
    const signerOf = (role: OnlineRole) => this.#find(role, wanted.root, wanted.targets);
    const keyMissing = (role: OnlineRole) => this.#keyMissing(role);
    const input = { ...wanted, signerOf, keyMissing, nowMs: now() };
    const next = await signOnlineRoles(input);
    return { next, unsigned: unsignedRoles(next, input) };
  }

  #keyMissing(role: OnlineRole): SitecastError {
    return onlineKeyMissing(role, this.#deps.keys.problemOf(role));
  }

  #find(role: OnlineRole, root: Metadata<'root'>, targets: Metadata<'targets'>): KeyPair | undefined {
    const [keyId] = signersOf(role, root.signed, targets.signed).keyids;
    return keyId === undefined ? undefined : this.#deps.keys.withId(role, keyId);
  }
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
