import type {
  FailureGroup,
  RolloutDevice,
  RolloutDeviceState,
  rolloutStatusSchema,
} from '@sitecast/shared/api';
import type { z } from 'zod';
import type { Rollout } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { PresenceBoard } from '../fleet/presence.ts';
import type { Progress, ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Status } from '../fleet/status.ts';
import type { CohortTracker } from './controller/cohort-tracker.ts';
import { decide } from './controller/decide.ts';
import { figuresOf, type RolloutStats } from './controller/state.ts';
import { bootedCounter, isReached, provedCounter } from './match.ts';
import type { RolloutRecord } from './record.ts';

/** What devices have reported about one rollout, by their ids. */
export type Outcomes = ReadonlyMap<string, Outcome>;

const ENDS: ReadonlySet<RolloutDeviceState> = new Set(['completed', 'failed', 'rolledBack']);

/** The part of a rollout's status that is counted over devices. */
export type RolloutProgress = Pick<
  z.infer<typeof rolloutStatusSchema>,
  'counts' | 'total' | 'matching' | 'figures' | 'deciding' | 'failures' | 'names' | 'devices' | 'nextCursor'
>;

/** A device with a state that this version knows. */
type CountedDevice = RolloutDevice & { state: RolloutDeviceState };

/** Which devices a page of a rollout's status names. */
export interface StatusQuery {
  after?: string | undefined;
  limit: number;
  state?: RolloutDeviceState | undefined;
  nowMs: number;
}

/** What this origin alone knows of devices. */
export interface StatusSources {
  presence: Pick<PresenceBoard, 'stateOf'>;
  progress: Pick<ProgressBoard, 'get'>;
}

interface Sources extends StatusSources {
  registry: Registry;
  /** Of a rollout under way. */
  tracker: CohortTracker | undefined;
}

/** The state of each device that the rollout reaches or that has reported about it. */
export function statusOf(
  { rollout, product, controller }: RolloutRecord,
  outcomes: Outcomes,
  { registry, presence, progress, tracker }: Sources,
  { after, limit, state, nowMs }: StatusQuery,
): RolloutProgress {
  const counts: RolloutProgress['counts'] = {};
  const page = new Page(limit, device => isAfter(device, after) && (!state || device.state === state));
  const failures = new FailureGroups();
  const everyDevice = { ...rollout, cohort: { below: null } };
  let total = 0;
  let matching = 0;
  for (const member of registry.from(undefined)) {
    const outcome = outcomes.get(member.id);
    const status = registry.status(member.id);
    if (!outcome && !isInCohort(tracker, member) && !isOpenTo(rollout, product, member, status)) {
      if (isReached(everyDevice, product, member, status)) matching += 1;
      continue;
    }
    if (outcome?.failure && outcome.attempt === rollout.attempt) failures.add(member, outcome.failure);
    const running = progress.get(member.id, nowMs);
    const overdue = tracker?.overdue(member.id);
    const device: CountedDevice = {
      id: member.id,
      ...nameOf(member),
      site: member.site,
      ...unlessRevoked(
        member,
        deviceState(
          rollout,
          outcome,
          { booted: bootedCounter(status), proved: provedCounter(status) },
          running,
        ),
      ),
      ...transferOf(rollout, outcome),
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
    ...(tracker && standOf(controller, tracker.stats(controller.stage), nowMs)),
    failures: groups,
    names: registry.namesOf(groups.flatMap(({ devices }) => devices)),
    devices: page.devices,
    ...(page.nextCursor !== undefined && { nextCursor: page.nextCursor }),
  };
}

/** The figures, and whether the controller has yet to decide something by them: both of one moment. */
function standOf(
  controller: RolloutRecord['controller'],
  stats: RolloutStats,
  nowMs: number,
): Pick<RolloutProgress, 'figures' | 'deciding'> {
  const { state } = decide(controller, { type: 'reported', stats }, nowMs);
  return { figures: figuresOf(stats), ...(state !== controller && { deciding: true }) };
}

/** Collects the devices of one page. */
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

function isInCohort(tracker: CohortTracker | undefined, { id, revokedAt }: Member): boolean {
  return tracker?.has(id) === true && revokedAt === undefined;
}

/** Whether a device outside of the cohort would take part by its own decision. */
function isOpenTo(rollout: Rollout, product: string, member: Member, status: Status | undefined): boolean {
  return rollout.state !== 'aborted' && isReached(rollout, product, member, status);
}

/** A revoked device keeps the state in which it ended. In any other state it isn't waited for. */
function unlessRevoked(
  { revokedAt }: Member,
  reported: ReturnType<typeof deviceState>,
): ReturnType<typeof deviceState> {
  if (revokedAt === undefined || ENDS.has(reported.state)) return reported;
  return { state: 'revoked', at: revokedAt };
}

function deviceState(
  rollout: RolloutRecord['rollout'],
  outcome: Outcome | undefined,
  { booted, proved }: { booted: number; proved: number },
  running: Progress | undefined,
): Pick<CountedDevice, 'state' | 'at' | 'reason' | 'progress'> {
  const current = outcome?.attempt === rollout.attempt ? outcome : undefined;
  const isAbout = running?.rollout === rollout.id;
  const isEnded = current !== undefined && ENDS.has(current.state);
  // The device doesn't sign its progress. So progress shows how far a download is, never how it ended.
  if (isAbout && !isEnded && (!current || Date.parse(running.at) >= Date.parse(current.at))) {
    const { state, at, doneBytes, totalBytes } = running;
    return { state, at, progress: { doneBytes, totalBytes } };
  }
  // A device that ran the release before the rollout has nothing to do.
  if (!current) return { state: proved === rollout.release.counter ? 'completed' : 'pending' };
  const { state, at, reason } = current;
  return {
    state: stuckOnTheWayBack(rollout, current, booted) ? 'failed' : state,
    at,
    ...(reason && { reason }),
  };
}

/** It failed on the way back, fell back to the release that it was to leave, and reported that it rolled back: from the other one. */
function stuckOnTheWayBack(
  rollout: RolloutRecord['rollout'],
  { state, failure }: Outcome,
  booted: number,
): boolean {
  const isBack = booted !== rollout.release.counter;
  return rollout.state === 'rollingBack' && state === 'rolledBack' && failure !== undefined && !isBack;
}

function transferOf(
  { attempt }: RolloutRecord['rollout'],
  outcome: Outcome | undefined,
): Pick<RolloutDevice, 'transfer'> {
  return outcome?.transfer && outcome.attempt === attempt ? { transfer: outcome.transfer } : {};
}

/** Groups in one answer, and devices that are named of each group. */
const MAX_GROUPS = 50;
const MAX_NAMED = 5;

/** How agents of all releases begin the text about a failed command. The rest of the text differs from device to device, so it can't name a group. */
const HOW_IT_ENDED = /(?:^|: )(exit code (?:\d{1,3}|none)|not done after \d{1,6} s)(?::|$)/;

/** Groups failures by code, detail and hardware. */
export class FailureGroups {
  readonly #groups = new Map<string, Omit<FailureGroup, 'sites'> & { sites: Set<string> }>();

  add({ id, site, hardware = '' }: Member, { code, message }: { code: string; message: string }): void {
    const detail = HOW_IT_ENDED.exec(message)?.[1];
    const key = JSON.stringify([code, detail, hardware]);
    const group = this.#groups.get(key) ?? {
      code,
      ...(detail === undefined ? {} : { detail }),
      hardware,
      message,
      count: 0,
      sites: new Set<string>(),
      devices: [],
    };
    this.#groups.set(key, group);
    group.count += 1;
    group.sites.add(site);
    if (group.devices.length < MAX_NAMED) group.devices.push(id);
  }

  /** The largest groups first. */
  list(): FailureGroup[] {
    return [...this.#groups.values()]
      .sort((one, other) => other.count - one.count || one.code.localeCompare(other.code))
      .slice(0, MAX_GROUPS)
      .map(group => ({ ...group, sites: group.sites.size }));
  }
}
