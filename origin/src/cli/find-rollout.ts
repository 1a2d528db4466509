import { SitecastError } from '@sitecast/shared/errors';
import { fetchRollouts, type Rollout } from './fleet-api.ts';
import type { OriginClient } from './origin-client.ts';

const MAX_SHOWN = 10;
const UNDER_WAY: ReadonlySet<string> = new Set(['active', 'paused', 'rollingBack']);

/** By its id, or the beginning of it; the newest one without. @throws SITECAST_ROLLOUT_UNKNOWN */
export async function findRollout(origin: OriginClient, text: string | undefined): Promise<Rollout> {
  const rollouts = await fetchRollouts(origin);
  const found = text === undefined ? rollouts.slice(0, 1) : rollouts.filter(({ id }) => id.startsWith(text));
  const [only] = found;
  if (only && found.length === 1) return only;
  const message =
    text === undefined ? 'there is no rollout yet' : `${found.length} rollouts begin with ${text}`;
  throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', message, {
    hint: '`sitecast rollout list` shows them.',
  });
}

/** By its id, or the beginning of it; without, the only one that devices still act on. @throws SITECAST_ROLLOUT_UNKNOWN, SITECAST_ROLLOUT_AMBIGUOUS */
export async function findRolloutUnderWay(origin: OriginClient, text: string | undefined): Promise<Rollout> {
  if (text !== undefined) return findRollout(origin, text);
  const found = (await fetchRollouts(origin)).filter(({ state }) => UNDER_WAY.has(state));
  const [only] = found;
  if (only === undefined)
    throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', 'no rollout is under way', {
      hint: '`sitecast rollout list` shows those that have ended.',
    });
  if (found.length === 1) return only;
  const named = found.map(
    ({ id, product, release, state }) => `${id} (${product} ${release.version}, ${state})`,
  );
  const shown = named.slice(0, MAX_SHOWN).join(', ');
  const message = `${found.length} rollouts are under way: ${shown}${named.length > MAX_SHOWN ? ', …' : ''}`;
  throw new SitecastError('badInput', 'SITECAST_ROLLOUT_AMBIGUOUS', message, {
    hint: 'Say which: its id, or the beginning of it.',
    data: { rollouts: found.map(({ id }) => id) },
  });
}
