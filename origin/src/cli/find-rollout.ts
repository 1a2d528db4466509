import { SitecastError } from '@sitecast/shared/errors';
import { fetchRollouts, type Rollout } from './fleet-api.ts';
import type { OriginClient } from './origin-client.ts';

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
