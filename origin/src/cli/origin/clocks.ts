import { SitecastError } from '@sitecast/shared/errors';
import { toDateTime } from '@sitecast/shared/trust';
import type { OriginClient } from './client.ts';

/** The tolerated difference between two clocks. Clients tolerate the same. */
const MAX_APART_MS = 5 * 60_000;

/**
 * Demands that this machine and the origin agree about the time before a repository is founded. Each of them signs by its own clock, and
 * the
 * harm of a wrong one is permanent.
 * @throws SITECAST_CLOCKS_DIFFER (conflict)
 */
export async function requireSameTime(origin: OriginClient, now: () => number = Date.now): Promise<void> {
  const found = await compare(origin, now);
  if (!found?.areApart) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_CLOCKS_DIFFER',
    `the origin's clock says ${found.theirs}, this machine's ${found.ours}`,
    { hint: 'set the one that is wrong, then try again: nothing was signed' },
  );
}

/** A warning about the clocks; undefined if they agree. */
export async function clockWarning(
  origin: OriginClient,
  now: () => number = Date.now,
): Promise<string | undefined> {
  const found = await compare(origin, now);
  return found?.areApart === true
    ? `the origin's clock says ${found.theirs}, this machine's ${found.ours}: one of them is wrong`
    : undefined;
}

/**
 * Why a timestamp is from the future, and whose clock is wrong. If the origin's clock agrees with this one now, the origin's was
 * wrong when it signed.
 * @param issuedMs when the timestamp says that it was signed
 */
export async function blameForFuture(
  issuedMs: number,
  origin: OriginClient | undefined,
  now: () => number = Date.now,
): Promise<{ message: string; hint: string }> {
  const said = `the newest timestamp says that it was signed at ${toDateTime(issuedMs)}`;
  // The caller reports another failure. A failure of this request mustn't hide it.
  const found = origin && (await compare(origin, now).catch(() => undefined));
  if (!found)
    return {
      message: `${said}, and this machine's clock says ${toDateTime(now())}`,
      hint: "if this clock is right, the origin's was ahead when it signed: `sitecast keys rotate timestamp` takes that back",
    };
  if (found.areApart)
    return {
      message: `${said}; the origin's clock says ${found.theirs} now, this machine's ${found.ours}`,
      hint: "set the clock that is wrong; if it was the origin's, `sitecast keys rotate timestamp` then takes that back",
    };
  return {
    message: `${said}, though the origin and this machine agree that it is ${found.ours}: the origin's clock was ahead when it signed`,
    hint: '`sitecast keys rotate timestamp` takes that back',
  };
}

async function compare(
  origin: OriginClient,
  now: () => number,
): Promise<{ theirs: string; ours: string; areApart: boolean } | undefined> {
  const theirsMs = await origin.clockMs();
  const oursMs = now();
  if (theirsMs === undefined) return undefined;
  return {
    theirs: toDateTime(theirsMs),
    ours: toDateTime(oursMs),
    areApart: Math.abs(theirsMs - oursMs) > MAX_APART_MS,
  };
}
