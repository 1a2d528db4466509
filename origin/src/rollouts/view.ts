import type { DeviceState } from '@sitecast/shared/fleet';
import type { Outcome } from '../fleet/outcome.ts';
import type { Progress, ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import { bootedCounter, isReached } from './match.ts';
import type { RolloutRecord } from './record.ts';
import { hasCompleted, type Outcomes } from './tallies.ts';

/** What a device is doing about a rollout; `pending`: it hasn't said anything yet. */
type RolloutDeviceState = DeviceState | 'pending';

interface RolloutDevice {
  id: string;
  site: string;
  state: RolloutDeviceState;
  /** The device's clock; not there for those that are pending. */
  at?: string;
  reason?: { code: string; message: string };
  /** Of a download that is running. */
  progress?: { doneBytes: number; totalBytes: number };
}

export interface RolloutStatus {
  counts: Partial<Record<RolloutDeviceState, number>>;
  total: number;
  /** In the order of their ids. */
  devices: RolloutDevice[];
  /** The last one's id, where there are more. */
  nextCursor?: string;
}

interface Query {
  after?: string | undefined;
  limit: number;
  state?: RolloutDeviceState | undefined;
  nowMs: number;
}

interface Sources {
  registry: Registry;
  progress: ProgressBoard;
}

/** How far each device has got: those that the rollout reaches, and those that have reported about it. */
export function statusOf(
  { rollout, product }: RolloutRecord,
  outcomes: Outcomes,
  { registry, progress }: Sources,
  { after, limit, state, nowMs }: Query,
): RolloutStatus {
  const counts: RolloutStatus['counts'] = {};
  const devices: RolloutDevice[] = [];
  let total = 0;
  let hasMore = false;
  for (const member of registry.from(undefined)) {
    const outcome = outcomes.get(member.id);
    const status = registry.status(member.id);
    const isIn = rollout.state !== 'aborted' && isReached(rollout, product, member, status);
    if (!outcome && !isIn) continue;
    const running = progress.get(member.id, nowMs);
    const found: RolloutDevice = {
      id: member.id,
      site: member.site,
      ...deviceState(rollout, outcome, bootedCounter(status), running),
    };
    total += 1;
    counts[found.state] = (counts[found.state] ?? 0) + 1;
    const isWanted =
      (state === undefined || state === found.state) && (after === undefined || found.id > after);
    if (isWanted && devices.length < limit) devices.push(found);
    else if (isWanted) hasMore = true;
  }
  const last = devices.at(-1);
  return { counts, total, devices, ...(hasMore && last && { nextCursor: last.id }) };
}

function deviceState(
  rollout: RolloutRecord['rollout'],
  outcome: Outcome | undefined,
  booted: number,
  running: Progress | undefined,
): Pick<RolloutDevice, 'state' | 'at' | 'reason' | 'progress'> {
  const current = outcome?.attempt === rollout.attempt ? outcome : undefined;
  const isAbout = running?.rollout === rollout.id;
  if (isAbout && (!current || Date.parse(running.at) >= Date.parse(current.at))) {
    const { state, at, doneBytes, totalBytes } = running;
    return { state, at, progress: { doneBytes, totalBytes } };
  }
  if (!current) return { state: hasCompleted(rollout, current, booted) ? 'completed' : 'pending' };
  const { state, at, reason } = current;
  return { state, at, ...(reason && { reason }) };
}
