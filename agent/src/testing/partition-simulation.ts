// For tests only: sites that are cut off from all gateways, in virtual time. When a device goes down is decided by the agent's own functions.
import { LEASE_MS } from '@sitecast/shared/api';
import { randomFrom } from '@sitecast/shared/testing';
import { maxDownOf, nextTurn } from '../update/turns.ts';

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const MAX_DEVICES = 200;
const MAX_DOWN_BASIS_POINTS = 2500;
/** Vouched clocks differ by so much at most. */
const CLOCK_ERROR_MS = 2 * MINUTE_MS;
/** From when a device has looked for others until they see that it is down. */
const UNSEEN_MS = 45_000;
const MEAN_DOWN_MS = 4 * MINUTE_MS;
/** Of the updates, those after which a device doesn't come back for two hours. */
const LONG_SHARE = 0.02;
const LONG_DOWN_MS = 120 * MINUTE_MS;
/** Of the devices that are switched off, or gone, all the time. */
const MAX_GONE_SHARE = 0.1;
const HORIZON_MS = 60 * DAY_MS;
const LOOKS_EVERY_MS = MINUTE_MS;

/** How a partition went. */
export interface PartitionOutcome {
  devices: number;
  /** Devices that the rollout lets be down at one time. */
  maxDown: number;
  /** Devices that are switched off all the time: they don't count as down. */
  gone: number;
  updated: number;
  /** The most that were down at one time. */
  mostDown: number;
  /** Of the devices, the share that was down on average while updates were under way. */
  meanShare: number;
  /** Milliseconds until the last device has updated. */
  lastMs: number;
}

interface Device {
  id: string;
  knownShare: number;
  knownDevices: number;
  clockErrorMs: number;
}

/** @param seed of everything that is drawn */
export function simulatePartition(seed: number): PartitionOutcome {
  const random = randomFrom(seed);
  const devices = Math.max(2, Math.round(Math.exp(random() * Math.log(MAX_DEVICES))));
  const gone = Math.floor(random() * MAX_GONE_SHARE * devices);
  const beganMs = 1.7e12 + random() * 365 * DAY_MS;
  const rollout = `rollout-${seed}`;
  const down: { fromMs: number; untilMs: number }[] = [];
  const queue = Array.from({ length: devices - gone }, (_, at): { device: Device; atMs: number } => {
    const knownShare = 0.5 + random() / 2;
    const device = {
      id: `device-${seed}-${at}`,
      knownShare,
      knownDevices: Math.max(1, Math.round(devices * knownShare)),
      clockErrorMs: (2 * random() - 1) * CLOCK_ERROR_MS,
    };
    return { device, atMs: beganMs + random() * LOOKS_EVERY_MS };
  });
  let lastMs = beganMs;
  for (let next = takeFirst(queue); next; next = takeFirst(queue)) {
    const { device, atMs } = next;
    if (atMs > beganMs + HORIZON_MS) continue;
    const nowMs = atMs + device.clockErrorMs;
    const turn = nextTurn({ rollout, device: device.id, knownDevices: device.knownDevices }, nowMs);
    if (nowMs < turn.beginMs) {
      queue.push({ device, atMs: turn.beginMs - device.clockErrorMs + random() * 1000 });
      continue;
    }
    const isSeen = (): boolean => random() < device.knownShare;
    const isDown = ({ fromMs, untilMs }: { fromMs: number; untilMs: number }): boolean =>
      fromMs + UNSEEN_MS <= atMs && atMs < untilMs && isSeen();
    const away = down.filter(isDown).length + Array.from({ length: gone }).filter(isSeen).length;
    if (away > maxDownOf(device.knownDevices, MAX_DOWN_BASIS_POINTS)) {
      queue.push({ device, atMs: atMs + LOOKS_EVERY_MS });
      continue;
    }
    const isLong = random() < LONG_SHARE;
    const forMs = isLong ? LONG_DOWN_MS : Math.min(LEASE_MS, -MEAN_DOWN_MS * Math.log(1 - random()));
    down.push({ fromMs: atMs, untilMs: atMs + forMs });
    lastMs = Math.max(lastMs, atMs + forMs);
  }
  const maxDown = maxDownOf(devices, MAX_DOWN_BASIS_POINTS);
  const allDownMs = down.reduce((sum, { fromMs, untilMs }) => sum + untilMs - fromMs, 0);
  return {
    devices,
    maxDown,
    gone,
    updated: down.length,
    mostDown: mostAtOnce(down),
    meanShare: lastMs > beganMs ? allDownMs / (lastMs - beganMs) / devices : 0,
    lastMs: lastMs - beganMs,
  };
}

const BANDS = [
  [2, 4],
  [5, 12],
  [13, 50],
  [51, 200],
] as const;

/** Lines for people: by the size of the site, which share of its devices was down. */
export function describePartitions(outcomes: readonly PartitionOutcome[]): string[] {
  return BANDS.map(([from, to]) => {
    const band = outcomes.filter(({ devices }) => devices >= from && devices <= to);
    const shares = band.map(({ mostDown, devices }) => mostDown / devices).sort((a, b) => a - b);
    const above = band.filter(({ mostDown, maxDown }) => mostDown > maxDown);
    const mean = band.reduce((sum, { meanShare }) => sum + meanShare, 0) / band.length;
    const most = Math.max(...band.map(({ mostDown }) => mostDown));
    const overBy = Math.max(0, ...above.map(({ mostDown, maxDown }) => mostDown - maxDown));
    const updated = sumOf(band, 'updated') / (sumOf(band, 'devices') - sumOf(band, 'gone'));
    return [
      `${from}-${to} devices, ${band.length} partitions:`,
      `down on average ${percent(mean)};`,
      `at one time at most: median ${percent(shares[Math.floor(shares.length / 2)] ?? 0)}, 99 of 100 ${percent(shares[Math.floor(shares.length * 0.99)] ?? 0)}, maximum ${percent(shares.at(-1) ?? 0)} (${most} devices);`,
      `more than maxDown in ${percent(above.length / band.length)}, by ${overBy} at most;`,
      `updated ${percent(updated)}`,
    ].join(' ');
  });
}

function sumOf(outcomes: readonly PartitionOutcome[], what: 'updated' | 'devices' | 'gone'): number {
  return outcomes.reduce((sum, outcome) => sum + outcome[what], 0);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.01 ? 3 : 1)} %`;
}

function mostAtOnce(down: readonly { fromMs: number; untilMs: number }[]): number {
  const changes = down.flatMap(({ fromMs, untilMs }) => [
    { atMs: fromMs, by: 1 },
    { atMs: untilMs, by: -1 },
  ]);
  changes.sort((one, other) => one.atMs - other.atMs || one.by - other.by);
  let [now, most] = [0, 0];
  for (const { by } of changes) {
    now += by;
    most = Math.max(most, now);
  }
  return most;
}

function takeFirst<T extends { atMs: number }>(queue: T[]): T | undefined {
  let first = 0;
  for (let at = 1; at < queue.length; at += 1)
    if ((queue[at]?.atMs ?? 0) < (queue[first]?.atMs ?? 0)) first = at;
  return queue.splice(first, 1)[0];
}
