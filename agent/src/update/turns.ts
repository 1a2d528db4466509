import { createHash } from 'node:crypto';
import { LEASE_MS } from '@sitecast/shared/api';

// When a device may go down that no gateway counts. Each device has one turn in each cycle, by a hash that no device can choose, so nobody has to
// coordinate anything. Pure functions.

/** Milliseconds for which no gateway has answered before a device goes by turns. */
export const SILENT_FOR_MS = 6 * 3_600_000;
/** With turns of a lease's length: a day. */
const MIN_TURNS = 96;
/** So many turns for each known device: on average a quarter of a device is down. */
const TURNS_PER_DEVICE = 4;
/**
 * Within its turn a device begins at a moment of its own, in the first third; it may begin for that long. So of two devices with the same turn
 * the second one mostly sees that the first is down.
 */
export const BEGINS_WITHIN_MS = LEASE_MS / 3;

/** Milliseconds since 1970. The device may go down from `beginMs` on; what it has begun by `lateMs` may last until `endMs`. */
export interface Turn {
  beginMs: number;
  lateMs: number;
  endMs: number;
}

export interface TurnOf {
  rollout: string;
  /** The device's id. */
  device: string;
  /** Devices that it knows of, itself included. */
  knownDevices: number;
}

/** Turns of one cycle. */
export function turnsIn(knownDevices: number): number {
  return Math.max(MIN_TURNS, TURNS_PER_DEVICE * knownDevices);
}

/** The device's turn that isn't over yet: in this cycle, or in the next one. Cycles begin at 1970, and are as long on devices that know as many. */
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
  /** Milliseconds for which no gateway has answered, as far as this device has watched. */
  silentForMs: number;
  /** The time is known to be right: the turns of devices with other times would lie elsewhere. */
  isTimeTrusted: boolean;
}

/** What keeps a device from going down without a lease, where the order allows it and no gateway has refused it. */
export type LeaveWait =
  | { for: 'silence'; leftMs: number }
  | { for: 'time' }
  | { for: 'turn'; beginMs: number };

/** @returns undefined where it may go down now, as far as it can know by itself */
export function leaveWait({ nowMs, turn, silentForMs, isTimeTrusted }: LeaveFacts): LeaveWait | undefined {
  if (silentForMs < SILENT_FOR_MS) return { for: 'silence', leftMs: SILENT_FOR_MS - silentForMs };
  if (!isTimeTrusted) return { for: 'time' };
  return nowMs < turn.beginMs ? { for: 'turn', beginMs: turn.beginMs } : undefined;
}

/** Devices that a rollout lets be down at one time, as gateways count it: at least one. */
export function maxDownOf(knownDevices: number, maxDownBasisPoints: number): number {
  return Math.max(1, Math.floor((knownDevices * maxDownBasisPoints) / 10_000));
}
