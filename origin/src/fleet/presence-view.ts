import type { PresenceBoard, PresenceState, Turn } from './presence.ts';
import type { Member } from './member.ts';
import type { Registry } from './registry.ts';

interface Sources {
  registry: Registry;
  presence: PresenceBoard;
}

/** A turn as it's shown, and how its holder is heard. */
export interface ShownTurn extends Omit<Turn, 'sinceMs' | 'untilMs'> {
  heldMs?: number;
  leftMs: number;
  presence: PresenceState;
  lastHeardAt?: string;
  /** The holder's. */
  name?: string;
}

/** Turns of one gateway in a list of many gateways': its claims alone don't fill it. */
const MAX_SHOWN_OF_GATEWAY = 5;

/** The first ones of a list, just a few of each gateway among them. */
export function firstOfEach(turns: readonly Turn[], max: number): Turn[] {
  const counts = new Map<string, number>();
  const shown = turns.filter(({ gateway }) => {
    const count = (counts.get(gateway) ?? 0) + 1;
    counts.set(gateway, count);
    return count <= MAX_SHOWN_OF_GATEWAY;
  });
  return shown.slice(0, max);
}

export function shownTurn(
  { sinceMs, untilMs, ...turn }: Turn,
  { registry, presence }: Sources,
  nowMs: number,
): ShownTurn {
  const holder = registry.member(turn.id);
  const heardMs = holder && lastHeardMs(holder, registry);
  return {
    ...turn,
    ...(sinceMs !== undefined && { heldMs: Math.max(0, nowMs - sinceMs) }),
    leftMs: Math.max(0, untilMs - nowMs),
    ...(holder?.name !== undefined && { name: holder.name }),
    presence: holder ? presence.stateOf(holder) : 'untold',
    ...(heardMs !== undefined && { lastHeardAt: new Date(heardMs).toISOString() }),
  };
}

/** When anything last came of it, by whichever way: a report, a request of its own, the word of a gateway. */
export function lastHeardMs(member: Member, registry: Registry): number | undefined {
  const reportedMs = Date.parse(registry.status(member.id)?.last.receivedAt ?? '') || 0;
  const lastMs = Math.max(reportedMs, registry.lastSeenMs(member) ?? 0);
  return lastMs > 0 ? lastMs : undefined;
}
