import { plural } from '@sitecast/shared/text';
import { formatDurationMs } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import type { z } from 'zod';
import { calledText } from './output.ts';
import { fleetPresenceSchema, type Member, type Turn } from './origin/fleet-api.ts';
import type { OriginClient } from './origin/client.ts';

type FleetPresence = z.infer<typeof fleetPresenceSchema>;
type Ailing = NonNullable<FleetPresence['ailing']>[number];

/** Longer than the time for a reboot and a health check. */
const LONG_MS = 15 * 60_000;
const MAX_LINES = 10;
/** Of one gateway, which says itself what is wrong with it. Where not all gateways have room for so many, each has one. */
const MAX_GATEWAY_LINES = 2;

/** Which gateways and turn holders are heard; undefined from an origin of an earlier version. */
export async function fetchPresence(origin: Pick<OriginClient, 'json'>): Promise<FleetPresence | undefined> {
  try {
    return await origin.json('/api/v1/presence', fleetPresenceSchema);
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_NOT_FOUND') return undefined;
    throw error;
  }
}

/**
 * `site north: its turn is held by cam-7 for 12 min, not heard since …; it ends in 3 min unless renewed, or with …`. Revoking the
 * device ends its turn.
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

/** One line for each turn, and one for the rest. */
export function turnLines(turns: readonly Turn[]): string[] {
  return atMost(turns.map(turnText), 'turn');
}

/** `3 versions behind since …`; undefined where it isn't behind, or doesn't tell. */
export function behindText(mirror: Member['mirror']): string | undefined {
  if (mirror?.behindSince === undefined) return undefined;
  return `${plural(mirror.behindBy, 'version')} behind since ${mirror.behindSince}`;
}

function ailingTexts({ id, name, site, mirror, troubles = [] }: Ailing, maxLines: number): string[] {
  const who = `site ${site}: gateway ${calledText({ id, name })}`;
  const behind = behindText(mirror);
  const texts = [
    ...(behind === undefined ? [] : [`${who} serves metadata that is ${behind}: look at its log`]),
    ...troubles.map(({ code, detail }) => `${who} says: ${detail} (${code})`),
  ];
  const left = texts.length - maxLines;
  return texts
    .slice(0, maxLines)
    .map((text, at) =>
      left > 0 && at === maxLines - 1 ? `${text}; and ${plural(left, 'warning')} more` : text,
    );
}

/** What needs attention: gateways that are silent, behind or not well, and turns whose holders are silent or take too long. */
export function presenceWarnings({ gateways, silent, ailing = [], turns }: FleetPresence): string[] {
  const dead = silent.map(
    ({ id, name, site, lastHeardAt = 'the origin was started' }) =>
      `site ${site}: gateway ${calledText({ id, name })} is silent since ${lastHeardAt}`,
  );
  const linesEach = ailing.length * MAX_GATEWAY_LINES > MAX_LINES ? 1 : MAX_GATEWAY_LINES;
  const stuck = turns.filter(({ presence, heldMs = 0 }) => presence === 'silent' || heldMs >= LONG_MS);
  return [
    ...atMost(dead, 'silent gateway', gateways.silent),
    ...atMost(
      ailing.flatMap(gateway => ailingTexts(gateway, linesEach)),
      'ailing gateway',
    ),
    ...turnLines(stuck),
  ];
}

function atMost(lines: readonly string[], noun: string, count = lines.length): string[] {
  const shown = lines.slice(0, MAX_LINES);
  return count > shown.length ? [...shown, `… and ${plural(count - shown.length, noun)} more`] : shown;
}
