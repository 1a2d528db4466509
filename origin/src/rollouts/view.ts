import type { RolloutDevice, RolloutDeviceState, rolloutStatusSchema } from '@sitecast/shared/api';
import type { z } from 'zod';
import type { Rollout } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { PresenceBoard } from '../fleet/presence.ts';
import type { Progress, ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Status } from '../fleet/status.ts';
import type { Ledger } from './controller/ledger.ts';
import { FailureGroups } from './failures.ts';
import { bootedCounter, isReached } from './match.ts';
import type { RolloutRecord } from './record.ts';
import { hasCompleted, type Outcomes } from './tallies.ts';

const ENDS: ReadonlySet<RolloutDeviceState> = new Set(['completed', 'failed', 'rolledBack']);

/** What is shown of how far a rollout has got. */
export type RolloutProgress = Pick<
  z.infer<typeof rolloutStatusSchema>,
  'counts' | 'total' | 'matching' | 'figures' | 'failures' | 'names' | 'devices' | 'nextCursor'
>;

/** A device, with a state of today's list. */
type CountedDevice = RolloutDevice & { state: RolloutDeviceState };

interface Query {
  after?: string | undefined;
  limit: number;
  state?: RolloutDeviceState | undefined;
  nowMs: number;
}

interface Sources {
  registry: Registry;
  presence: Pick<PresenceBoard, 'stateOf'>;
  progress: ProgressBoard;
  /** While the rollout goes on. */
  ledger: Ledger | undefined;
}

/** How far each device has got: those that the rollout reaches, and those that have reported about it. */
export function statusOf(
  { rollout, product, controller }: RolloutRecord,
  outcomes: Outcomes,
  { registry, presence, progress, ledger }: Sources,
  { after, limit, state, nowMs }: Query,
): RolloutProgress {
  const counts: RolloutProgress['counts'] = {};
  const page = new Page(limit, device => isAfter(device, after) && (!state || device.state === state));
  const failures = new FailureGroups();
  const everybody = { ...rollout, cohort: { below: null } };
  let total = 0;
  let matching = 0;
  for (const member of registry.from(undefined)) {
    const outcome = outcomes.get(member.id);
    const status = registry.status(member.id);
    if (!outcome && !isInCohort(ledger, member) && !isOpenTo(rollout, product, member, status)) {
      if (isReached(everybody, product, member, status)) matching += 1;
      continue;
    }
    if (outcome?.failure && outcome.attempt === rollout.attempt) failures.add(member, outcome.failure);
    const running = progress.get(member.id, nowMs);
    const overdue = ledger?.overdue(member.id);
    const device: CountedDevice = {
      id: member.id,
      ...nameOf(member),
      site: member.site,
      ...unlessRevoked(member, deviceState(rollout, outcome, bootedCounter(status), running)),
      ...lateness(member, overdue, presence),
    };
    total += 1;
    matching += 1;
    counts[device.state] = (counts[device.state] ?? 0) + 1;
    page.add(device);
  }
  const groups = failures.list();
  return {
    counts,
    total,
    matching,
    ...(ledger && { figures: ledger.figures(controller.stage) }),
    failures: groups,
    names: registry.namesOf(groups.flatMap(({ devices }) => devices)),
    devices: page.devices,
    ...(page.nextCursor !== undefined && { nextCursor: page.nextCursor }),
  };
}

/** As many devices as are wanted. */
class Page {
  readonly devices: RolloutDevice[] = [];
  readonly #limit: number;
  readonly #isWanted: (device: RolloutDevice) => boolean;
  nextCursor: string | undefined;

  constructor(limit: number, isWanted: (device: RolloutDevice) => boolean) {
    this.#limit = limit;
    this.#isWanted = isWanted;
  }

  add(device: RolloutDevice): void {
    if (!this.#isWanted(device)) return;
    if (this.devices.length < this.#limit) this.devices.push(device);
    else this.nextCursor ??= this.devices.at(-1)?.id;
  }
}

const nameOf = ({ name }: Member): { name?: string } => (name === undefined ? {} : { name });

function lateness(
  member: Member,
  overdue: RolloutDevice['overdue'],
  presence: Sources['presence'],
): Pick<RolloutDevice, 'overdue' | 'heard'> {
  if (!overdue) return {};
  return { overdue, ...(presence.stateOf(member) === 'heard' && { heard: true }) };
}

const isAfter = ({ id }: RolloutDevice, after: string | undefined): boolean =>
  after === undefined || id > after;

function isInCohort(ledger: Ledger | undefined, { id, revokedAt }: Member): boolean {
  return ledger?.has(id) === true && revokedAt === undefined;
}

/** Whom nobody has counted in, and who decides to be in. */
function isOpenTo(rollout: Rollout, product: string, member: Member, status: Status | undefined): boolean {
  return rollout.state !== 'aborted' && isReached(rollout, product, member, status);
}

/** How it ended stays so; whatever else it said, it isn't waited for. */
function unlessRevoked(
  { revokedAt }: Member,
  said: ReturnType<typeof deviceState>,
): ReturnType<typeof deviceState> {
  if (revokedAt === undefined || ENDS.has(said.state)) return said;
  return { state: 'revoked', at: revokedAt };
}

function deviceState(
  rollout: RolloutRecord['rollout'],
  outcome: Outcome | undefined,
  booted: number,
  running: Progress | undefined,
): Pick<CountedDevice, 'state' | 'at' | 'reason' | 'progress'> {
  const current = outcome?.attempt === rollout.attempt ? outcome : undefined;
  const isAbout = running?.rollout === rollout.id;
  const isEnded = current !== undefined && ENDS.has(current.state);
  // Progress isn't signed by the device: it shows how far something is, never how it ended.
  if (isAbout && !isEnded && (!current || Date.parse(running.at) >= Date.parse(current.at))) {
    const { state, at, doneBytes, totalBytes } = running;
    return { state, at, progress: { doneBytes, totalBytes } };
  }
  if (!current) return { state: hasCompleted(rollout, current, booted) ? 'completed' : 'pending' };
  const { state, at, reason } = current;
  return { state, at, ...(reason && { reason }) };
}
