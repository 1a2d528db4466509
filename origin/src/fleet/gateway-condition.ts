import { type Presence, TELL_EVERY_MS } from '@sitecast/shared/api';

/** Behind for so long: a gateway that tells once a minute may tell in the second between a publication and its own refresh. */
const BEHIND_AFTER_MS = 1.5 * TELL_EVERY_MS;

/** What a gateway says of itself. Only people look at it. */
export interface GatewayCondition {
  /** Of the timestamp that it serves; undefined: it doesn't tell. */
  timestampVersion: number | undefined;
  /** Versions that the origin had beyond that when the gateway told. */
  behindBy: number;
  /** Since when each of its messages has told an older version. */
  behindSinceMs: number | undefined;
  troubles: NonNullable<Presence['troubles']>;
}

/** As it is shown. */
export interface ShownCondition {
  mirror?: { timestampVersion: number; behindBy: number; behindSince?: string };
  troubles?: GatewayCondition['troubles'];
}

/** @param currentVersion of the origin's timestamp */
export function conditionAfter(
  before: GatewayCondition | undefined,
  { timestampVersion, troubles = [] }: Pick<Presence, 'timestampVersion' | 'troubles'>,
  { currentVersion, nowMs }: { currentVersion: number | undefined; nowMs: number },
): GatewayCondition {
  const isTold = timestampVersion !== undefined && currentVersion !== undefined;
  const behindBy = isTold ? Math.max(0, currentVersion - timestampVersion) : 0;
  const behindSinceMs = behindBy === 0 ? undefined : (before?.behindSinceMs ?? nowMs);
  return { timestampVersion, behindBy, behindSinceMs, troubles };
}

export function shownCondition(
  { timestampVersion, behindBy, behindSinceMs, troubles }: GatewayCondition,
  nowMs: number,
): ShownCondition {
  const isBehind = behindSinceMs !== undefined && nowMs - behindSinceMs >= BEHIND_AFTER_MS;
  return {
    ...(timestampVersion !== undefined && {
      mirror: {
        timestampVersion,
        behindBy: isBehind ? behindBy : 0,
        ...(isBehind && { behindSince: new Date(behindSinceMs).toISOString() }),
      },
    }),
    ...(troubles.length > 0 && { troubles }),
  };
}
