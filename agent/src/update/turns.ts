import { createHash } from 'node:crypto';
import { LEASE_MS } from '@sitecast/shared/api';

// When a device may go down without a gateway that counts. Each device has one turn in each cycle, by a hash that no device can choose, so
// nothing needs to be coordinated. Pure functions.

/** How long no gateway must have answered before a device goes down by turns, in ms. */
export const SILENT_FOR_MS = 6 * 3_600_000;
/** The least number of turns; each is as long as a lease, so a cycle takes at least a day. */
const MIN_TURNS = 96;
/** Turns for each known device: on average, a quarter of a device is down. */
const TURNS_PER_DEVICE = 4;
/**
 * How long after its begin a turn may be used. Within the first third of its turn, each device has a moment of its own: so of two devices
 * with the same turn, the later one usually sees that the other is down.
 */
export const BEGINS_WITHIN_MS = LEASE_MS / 3;

/** In ms since 1970. The device may go down from `beginMs` to `lateMs`; what it has begun may last until `endMs`. */
export interface Turn {
  beginMs: number;
  lateMs: number;
  endMs: number;
}

export interface TurnOf {
  rollout: string;
  /** The device's id. */
  device: string;
  /** How many devices it knows of, itself included. */
  knownDevices: number;
}

/** How many turns a cycle has. */
export function turnsIn(knownDevices: number): number {
  return Math.max(MIN_TURNS, TURNS_PER_DEVICE * knownDevices);
}

/** The device's current or next turn, in this cycle or the next one. Cycles begin at 1970; devices that know of equally many have the same. */
export function nextTurn({ rollout, device, knownDevices }: TurnOf, nowMs: number): Turn {
  const turns = turnsIn(knownDevices);
  const cycleMs = turns * LEASE_MS;
  const turnIn = (cycle: number): Turn => {
    const hash = createHash('sha256').update(`${rollout}/${device}/${cycle}`).digest();
    const startMs = cycle * cycleMs + (hash.readUIntBE(0, 6) % turns) * LEASE_MS;
    const beginMs = startMs + Math.floor((hash.readUInt32BE(6) / 2 ** 32) * BEGINS_WITHIN_MS);
    return { beginMs, lateMs: beginMs + BEGINS_WITHIN_MS, endMs: startMs + LEASE_MS };
  };
  const cycle = Math.floor(nowMs / cycleMs);
  const turn = turnIn(cycle);
  return nowMs < turn.lateMs ? turn : turnIn(cycle + 1);
}

export interface LeaveFacts {
  nowMs: number;
  turn: Turn;
  /** How long no gateway has answered, in ms. Only time in which this device was watching counts. */
  silentForMs: number;
  /** Whether the time is known to be right: with another time, the device's turn would be elsewhere. */
  isTimeTrusted: boolean;
}

/** What keeps a device from going down without a lease, if the order allows that and no gateway has refused it. */
export type LeaveWait =
  | { for: 'silence'; leftMs: number }
  | { for: 'time' }
  | { for: 'turn'; beginMs: number };

/** @returns undefined where the device may go down now, as far as it knows */
export function leaveWait({ nowMs, turn, silentForMs, isTimeTrusted }: LeaveFacts): LeaveWait | undefined {
  if (silentForMs < SILENT_FOR_MS) return { for: 'silence', leftMs: SILENT_FOR_MS - silentForMs };
  if (!isTimeTrusted) return { for: 'time' };
  return nowMs < turn.beginMs ? { for: 'turn', beginMs: turn.beginMs } : undefined;
}

/** How many devices a rollout allows to be down at a time, counted like gateways do: at least one. */
export function maxDownOf(knownDevices: number, maxDownBasisPoints: number): number {
  return Math.max(1, Math.floor((knownDevices * maxDownBasisPoints) / 10_000));
}
