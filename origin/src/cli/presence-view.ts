import { formatDurationMs } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { calledText } from './called.ts';
import type { OriginClient } from './origin-client.ts';
import { plural } from './output.ts';

/** As the origin tells it; another word of a later origin says nothing here. */
export const presenceSchema = z.enum(['heard', 'silent', 'untold']).optional().catch(undefined);

/** The leave to be down that a device holds. */
export const turnSchema = z.object({
  id: z.string(),
  site: z.string(),
  gateway: z.string(),
  product: z.string(),
  rollout: z.string(),
  heldMs: z.number().optional(),
  leftMs: z.number(),
  presence: presenceSchema,
  lastHeardAt: z.string().optional(),
  name: z.string().optional(),
});
type Turn = z.infer<typeof turnSchema>;

const fleetPresenceSchema = z.object({
  gateways: z.object({ heard: z.number(), silent: z.number(), untold: z.number() }),
  silent: z.array(
    z.object({
      id: z.string(),
      name: z.string().optional(),
      site: z.string(),
      lastHeardAt: z.string().optional(),
    }),
  ),
  turns: z.array(turnSchema),
});
type FleetPresence = z.infer<typeof fleetPresenceSchema>;

/** Turns longer than a reboot and a health check take; a device that is heard has a reason. */
const LONG_MS = 15 * 60_000;
const MAX_LINES = 10;

/** What gateways say of who lives; undefined from an origin of an earlier version. */
export async function fetchPresence(origin: Pick<OriginClient, 'json'>): Promise<FleetPresence | undefined> {
  try {
    return await origin.json('/api/v1/presence', fleetPresenceSchema);
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_NOT_FOUND') return undefined;
    throw error;
  }
}

/**
 * `site north: its turn is held by cam-7 for 12 min, not heard since …; it ends in 3 min unless renewed, or with …`: a device that
 * is revoked isn't waited for.
 */
function turnText({ id, name, site, heldMs, leftMs, presence, lastHeardAt }: Turn): string {
  const long = heldMs === undefined ? '' : ` for ${formatDurationMs(heldMs)}`;
  const isAway = presence === 'silent' && lastHeardAt !== undefined;
  const parts = [
    `site ${site}: its turn is held by ${calledText({ id, name })}${long}`,
    isAway ? `, not heard since ${lastHeardAt}` : '',
    leftMs > 0 ? `; it ends in ${formatDurationMs(leftMs)} unless renewed` : '; it ends now unless renewed',
    presence === 'silent'
      ? `, or, where it is gone for good, with \`sitecast device revoke ${name ?? id}\``
      : '',
  ];
  return parts.join('');
}

/** A line each, and one for those that don't fit. */
export function turnLines(turns: readonly Turn[]): string[] {
  return atMost(turns.map(turnText), 'turn');
}

/** What somebody is to look at: gateways that are silent, turns that others wait for in vain. */
export function presenceWarnings({ gateways, silent, turns }: FleetPresence): string[] {
  const dead = silent.map(
    ({ id, name, site, lastHeardAt = 'the origin was started' }) =>
      `site ${site}: gateway ${calledText({ id, name })} is silent since ${lastHeardAt}`,
  );
  const stuck = turns.filter(({ presence, heldMs = 0 }) => presence === 'silent' || heldMs >= LONG_MS);
  return [...atMost(dead, 'silent gateway', gateways.silent), ...turnLines(stuck)];
}

function atMost(lines: readonly string[], noun: string, count = lines.length): string[] {
  const shown = lines.slice(0, MAX_LINES);
  return count > shown.length ? [...shown, `… and ${plural(count - shown.length, noun)} more`] : shown;
}
