import type { DeviceState } from '@sitecast/shared/fleet';
import { hasCompletedOnce, type Outcome } from '../../fleet/outcome.ts';
import type { RolloutStats } from './state.ts';

/** What a device of the cohort counts as. Each device has exactly one status. */
export type DeviceStatus =
  | 'succeeded'
  | 'failed'
  | 'blocked'
  | 'returned'
  | 'running'
  | 'waiting'
  | 'pending'
  | 'decommissioned';

/** Past the deadline without a report: the device alone, or its whole site. */
export type Overdue = 'silent' | 'unreachable';

interface CohortDevice {
  id: string;
  site: string;
  /** The stage with which it came in. */
  stage: number;
}

/** Statuses from which a device may still succeed or fail. */
const OPEN: ReadonlySet<DeviceStatus> = new Set(['running', 'waiting', 'pending']);
export const isOpen = (status: DeviceStatus): boolean => OPEN.has(status);

/** A report of `failed` without a failure means a power loss: the device tries once more. */
const STATUS_OF_STATE: Record<DeviceState, DeviceStatus> = {
  completed: 'succeeded',
  rolledBack: 'returned',
  blocked: 'blocked',
  waiting: 'waiting',
  clockSuspect: 'waiting',
  idle: 'pending',
  checking: 'pending',
  failed: 'running',
  downloading: 'running',
  verifying: 'running',
  installing: 'running',
  rebooting: 'running',
  confirming: 'running',
};

interface DeviceFacts {
  /** What the device has reported about the rollout. */
  outcome: Outcome | undefined;
  /** Counter of the release that the device runs and has found good, by its last report; 0: unknown, or on trial. */
  provedCounter: number;
  isRevoked: boolean;
}

/** The status of a device in the present attempt at a release. */
export function deviceStatusOf(
  { outcome, provedCounter, isRevoked }: DeviceFacts,
  { attempt, counter, isRollingBack }: { attempt: number; counter: number; isRollingBack: boolean },
): DeviceStatus {
  const current = outcome?.attempt === attempt ? outcome : undefined;
  // The failure of a device counts although the device was revoked afterwards.
  if (current?.failure) return 'failed';
  if (isRevoked) return 'decommissioned';
  if (!current) return provedCounter === counter ? 'succeeded' : 'pending';
  // The device has shown that the release works. Later reports, which a thief of its key could send, can't hold up the rollout:
  // only a failure changes this status.
  if (!isRollingBack && hasCompletedOnce(current)) return 'succeeded';
  return STATUS_OF_STATE[current.state];
}

interface Entry {
  readonly site: string;
  readonly stage: number;
  status: DeviceStatus;
  overdue: Overdue | undefined;
}

/**
 * The frozen cohort and the status of each of its devices. It is a set: a repeated update changes nothing, and the order of updates
 * doesn't matter. The cost of one update doesn't depend on the size of the cohort.
 */
export class CohortTracker {
  readonly #entries = new Map<string, Entry>();
  /** Devices outside of the cohort that report, and whether they succeeded. */
  readonly #late = new Map<string, boolean>();
  readonly #sites = new Map<string, { members: number; failed: number }>();
  readonly #counts: Record<DeviceStatus, number> = {
    succeeded: 0,
    failed: 0,
    blocked: 0,
    returned: 0,
    running: 0,
    waiting: 0,
    pending: 0,
    decommissioned: 0,
  };
  readonly #joined: { members: number; succeeded: number }[] = [];
  #failedSites = 0;
  #silent = 0;
  #unreachable = 0;
  #lateSucceeded = 0;

  /** Takes a device into the cohort. A device that is in already stays as it is. */
  add({ id, site, stage }: CohortDevice, status: DeviceStatus): void {
    if (this.#entries.has(id)) return;
    if (this.#late.get(id)) this.#lateSucceeded -= 1;
    this.#late.delete(id);
    const entry: Entry = { site, stage, status, overdue: undefined };
    this.#entries.set(id, entry);
    const atSite = this.#sites.get(site) ?? { members: 0, failed: 0 };
    atSite.members += 1;
    this.#sites.set(site, atSite);
    const joined = (this.#joined[stage] ??= { members: 0, succeeded: 0 });
    joined.members += 1;
    this.#count(entry, 1);
  }

  has(id: string): boolean {
    return this.#entries.has(id);
  }

  status(id: string): DeviceStatus | undefined {
    return this.#entries.get(id)?.status;
  }

  overdue(id: string): Overdue | undefined {
    return this.#entries.get(id)?.overdue;
  }

  /** Sets the status of a device, in the cohort or late. The device has reported, so it isn't overdue. */
  update(id: string, status: DeviceStatus): void {
    const entry = this.#entries.get(id);
    if (!entry) {
      this.#updateLate(id, status);
      return;
    }
    if (entry.status === status && entry.overdue === undefined) return;
    this.#count(entry, -1);
    entry.status = status;
    entry.overdue = undefined;
    this.#count(entry, 1);
  }

  /** Marks an open device as overdue, or no longer overdue. */
  setOverdue(id: string, overdue: Overdue | undefined): void {
    const entry = this.#entries.get(id);
    if (!entry || !OPEN.has(entry.status) || entry.overdue === overdue) return;
    this.#count(entry, -1);
    entry.overdue = overdue;
    this.#count(entry, 1);
  }

  *devices(): Generator<CohortDevice & { status: DeviceStatus }> {
    for (const [id, { site, stage, status }] of this.#entries) yield { id, site, stage, status };
  }

  /** @param stage the current one */
  stats(stage: number): RolloutStats {
    const joined = this.#joined[stage] ?? { members: 0, succeeded: 0 };
    return {
      members: this.#entries.size,
      sites: this.#sites.size,
      joined: joined.members,
      joinedSucceeded: joined.succeeded,
      ...this.#counts,
      failedSites: this.#failedSites,
      silent: this.#silent,
      unreachable: this.#unreachable,
      late: this.#late.size,
      lateSucceeded: this.#lateSucceeded,
    };
  }

  #updateLate(id: string, status: DeviceStatus): void {
    if (this.#late.get(id)) this.#lateSucceeded -= 1;
    this.#late.delete(id);
    if (status === 'decommissioned' || status === 'pending') return;
    this.#late.set(id, status === 'succeeded');
    if (status === 'succeeded') this.#lateSucceeded += 1;
  }

  #count({ site, stage, status, overdue }: Entry, by: 1 | -1): void {
    this.#counts[status] += by;
    const joined = this.#joined[stage];
    if (status === 'succeeded' && joined) joined.succeeded += by;
    if (overdue === 'silent') this.#silent += by;
    if (overdue === 'unreachable') this.#unreachable += by;
    const atSite = this.#sites.get(site);
    if (status !== 'failed' || !atSite) return;
    const before = atSite.failed;
    atSite.failed += by;
    if (before === 0 || atSite.failed === 0) this.#failedSites += by;
  }
}

/** The newest reports that a gateway brought, of two different devices: at least one of them is another device's. */
interface Brought {
  latest: { id: string; atMs: number };
  other: { id: string; atMs: number } | undefined;
}

/** When each gateway last brought a report. Devices that report without a gateway share one entry. */
export class GatewayLiveness {
  readonly #brought = new Map<string, Brought>();

  /** @param via the gateway that brought the report; undefined: the device itself sent it */
  note(id: string, via: string | undefined, atMs: number): void {
    const known = this.#brought.get(via ?? '');
    if (!known) {
      this.#brought.set(via ?? '', { latest: { id, atMs }, other: undefined });
    } else if (known.latest.id === id) {
      if (atMs > known.latest.atMs) known.latest = { id, atMs };
    } else if (atMs > known.latest.atMs) {
      known.other = known.latest;
      known.latest = { id, atMs };
    } else if (!known.other || atMs > known.other.atMs) {
      known.other = { id, atMs };
    }
  }

  /** Whether the gateway has brought a report of another device after a moment. */
  broughtOthersAfter(id: string, via: string | undefined, momentMs: number): boolean {
    const brought = this.#brought.get(via ?? '');
    if (!brought) return false;
    const other = brought.latest.id === id ? brought.other : brought.latest;
    return other !== undefined && other.atMs > momentMs;
  }
}
