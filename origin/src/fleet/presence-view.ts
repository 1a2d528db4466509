import type { PresenceBoard, PresenceState, Turn } from './presence.ts';
import type { Member } from './member.ts';
import type { Registry } from './registry.ts';

/** What is known of members, and which of them gateways hear. */
export interface Sources {
  registry: Registry;
  presence: PresenceBoard;
}

/** A turn as it is shown, with its holder's presence. */
export interface ShownTurn extends Omit<Turn, 'sinceMs' | 'untilMs'> {
  heldMs?: number;
  leftMs: number;
  presence: PresenceState;
  lastHeardAt?: string;
  /** The holder's name. */
  name?: string;
}

/** Turns of one gateway in a list of many gateways: the claims of one don't fill it. */
const MAX_SHOWN_OF_GATEWAY = 5;

/** The first turns of a list, with at most a few of each gateway. */
export function firstOfEach(turns: readonly Turn[], max: number): Turn[] {
  const counts = new Map<string, number>();
  const shown = turns.filter(({ gateway }) => {
    const count = (counts.get(gateway) ?? 0) + 1;
    counts.set(gateway, count);
    return count <= MAX_SHOWN_OF_GATEWAY;
  });
  return shown.slice(0, max);
}

export function shownTurn({ sinceMs, untilMs, ...turn }: Turn, sources: Sources, nowMs: number): ShownTurn {
  const { registry, presence } = sources;
  const holder = registry.member(turn.id);
  const heardMs = holder && lastHeardMs(holder, sources);
  return {
    ...turn,
    ...(sinceMs !== undefined && { heldMs: Math.max(0, nowMs - sinceMs) }),
    leftMs: Math.max(0, untilMs - nowMs),
    ...(holder?.name !== undefined && { name: holder.name }),
    presence: holder ? presence.stateOf(holder) : 'untold',
    ...(heardMs !== undefined && { lastHeardAt: new Date(heardMs).toISOString() }),
  };
}

/** When the member last sent a request of its own, or was last heard according to a gateway. */
export function lastSeenMs(member: Member, { registry, presence }: Sources): number | undefined {
  return Math.max(presence.heardMs(member) ?? 0, registry.seenMs(member.id) ?? 0) || undefined;
}

/** When the member was last heard in any way: by a report, by a request of its own, or according to a gateway. */
export function lastHeardMs(member: Member, sources: Sources): number | undefined {
  const reportedMs = Date.parse(sources.registry.status(member.id)?.last.receivedAt ?? '') || 0;
  const lastMs = Math.max(reportedMs, lastSeenMs(member, sources) ?? 0);
  return lastMs > 0 ? lastMs : undefined;
}
