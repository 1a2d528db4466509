import { SitecastError } from '@sitecast/shared/errors';
import { MAX_REVOKED, MAX_ROLLOUTS, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import { bootedCounter, couldMeet, type Match, reachedBy } from './match.ts';
import { nearestOf } from './nearest.ts';
import type { RolloutRecord } from './record.ts';
import type { WantedRollout } from './wanted.ts';

/** States in which devices still act on a rollout. */
export const IS_GOING_ON: ReadonlySet<Rollout['state']> = new Set(['active', 'paused', 'rollingBack']);

/** Id of the newest rollout that goes on with a release. @param records newest first */
export function goingOnWith(
  records: readonly RolloutRecord[],
  product: string,
  counter: number,
): string | undefined {
  const found = records.find(
    record =>
      record.product === product &&
      record.rollout.release.counter === counter &&
      IS_GOING_ON.has(record.rollout.state),
  );
  return found?.rollout.id;
}

/** Ids that nobody who has to do with a product should serve any more, newest last; the oldest make way. */
export function revokedFor(product: string, registry: Registry): string[] {
  const concerned = (member: Member): boolean => member.kind === 'gateway' || member.product === product;
  return [...registry.members()]
    .filter(member => member.revokedAt !== undefined && concerned(member))
    .sort(
      (one, other) =>
        (one.revokedAt ?? '').localeCompare(other.revokedAt ?? '') || one.id.localeCompare(other.id),
    )
    .map(({ id }) => id)
    .slice(-MAX_REVOKED);
}

/** Without a wish for some hardware it's all that the release is for. */
export function matchFor({ match }: WantedRollout, hardware: readonly string[]): Match {
  const unfit = match.hardware?.filter(name => !hardware.includes(name)) ?? [];
  if (unfit.length > 0) {
    throw new SitecastError(
      'badInput',
      'SITECAST_HARDWARE_UNFIT',
      `the release isn't for the hardware ${unfit.join(', ')}: it is for ${hardware.join(', ')}`,
      { data: { unfit, hardware, ...nearestIn(unfit[0], hardware) } },
    );
  }
  const { sites, tags } = match;
  return {
    hardware: match.hardware ?? [...hardware],
    ...(sites && { sites }),
    ...(tags && Object.keys(tags).length > 0 && { tags }),
  };
}

/** Those that go on and could reach the same devices: as long as one does, the next can't be started. */
export function overlapping(match: Match, file: RolloutsFile): Rollout[] {
  return file.rollouts.filter(rollout => IS_GOING_ON.has(rollout.state) && couldMeet(rollout.match, match));
}

export function overlaps(product: string, other: Rollout): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_OVERLAPS',
    `rollout ${other.id} of ${product} ${other.release.version} is ${other.state} and could reach the same devices`,
    {
      hint: endingHint(other),
      data: { rollout: other.id, release: other.release, state: other.state },
    },
  );
}

/** Going back can't be good enough: it just ends. */
function endingHint({ id, state }: Rollout): string {
  const orComplete =
    state === 'rollingBack'
      ? ''
      : `, or \`sitecast rollout complete ${id}\` if what it reached is good enough`;
  return `End it first: \`sitecast rollout abort ${id}\`${orComplete}.`;
}

/** What devices obey is the newest rollout that reaches them: one that came before it can't lead them back. */
export function supersedingOf({ rollout }: RolloutRecord, { rollouts }: RolloutsFile): Rollout | undefined {
  const at = rollouts.findIndex(({ id }) => id === rollout.id);
  return rollouts.findLast(
    (other, place) => place > at && other.state !== 'aborted' && couldMeet(other.match, rollout.match),
  );
}

/** @throws SITECAST_ROLLOUT_SUPERSEDED */
export function refuseSuperseded(record: RolloutRecord, file: RolloutsFile): void {
  const newer = supersedingOf(record, file);
  if (!newer) return;
  const { product } = record;
  const { id, state, release } = newer;
  const back = `\`sitecast rollout rollback ${id}\` leads devices back from ${release.version}, with --to VERSION also further than one release`;
  const end = `\`sitecast rollout abort ${id}\``;
  const hints: Record<Rollout['state'], string> = {
    completed: `${back}.`,
    rollingBack: `End that first: ${end}.`,
    active: `${back}; ${end} ends it first.`,
    paused: `${back}; ${end} ends it first.`,
    aborted: '',
  };
  throw new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_SUPERSEDED',
    `rollout ${id} of ${product} ${release.version} came after it, is ${state}, and could reach the same devices`,
    { hint: hints[state], data: { rollout: id, release, state } },
  );
}

function nearestIn(name: string | undefined, known: readonly string[]): { nearest?: string } {
  const nearest = name === undefined ? undefined : nearestOf(name, known);
  return nearest === undefined ? {} : { nearest };
}

export function refuseDowngrade(
  product: string,
  rollout: Rollout,
  others: readonly Rollout[],
  registry: Registry,
): void {
  const { counter, version } = rollout.release;
  let newest = 0;
  let devices = 0;
  for (const { id } of reachedBy(rollout, product, registry)) {
    const booted = bootedCounter(registry.status(id));
    newest = Math.max(newest, booted);
    if (booted > counter) devices += 1;
  }
  for (const other of others) {
    if (other.state === 'completed' && couldMeet(other.match, rollout.match))
      newest = Math.max(newest, other.release.counter);
  }
  if (counter >= newest) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_DOWNGRADE_REFUSED',
    `${product} ${version} (counter ${counter}) is older than ${newest}, which these devices run or are to run`,
    {
      hint: 'If going back is meant: --allow-downgrade.',
      data: { product, counter, newest, devices },
    },
  );
}

/** Those that make way for another one: the oldest that have ended, but for the newest completed one. */
export function prunable({ rollouts }: RolloutsFile): Rollout[] {
  if (rollouts.length < MAX_ROLLOUTS) return [];
  const baseline = rollouts.findLast(({ state }) => state === 'completed');
  const oldest =
    rollouts.find(({ state }) => state === 'aborted') ??
    rollouts.find(rollout => rollout.state === 'completed' && rollout !== baseline);
  if (oldest) return [oldest];
  throw new SitecastError(
    'conflict',
    'SITECAST_TOO_MANY_ROLLOUTS',
    `${MAX_ROLLOUTS} rollouts of this product are going on`,
    { hint: 'End some of them first.', data: { maxRollouts: MAX_ROLLOUTS } },
  );
}

export function belowFloor(
  { product, floor }: { product: string; floor: { counter: number } },
  { counter, version }: { counter: number; version: string },
): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_RELEASE_BELOW_FLOOR',
    `${product} ${version} (counter ${counter}) lies below the product's floor, ${floor.counter}: no device would take it`,
    {
      hint: `\`sitecast release list ${product}\` shows its releases: take one with the counter ${floor.counter} or above.`,
      data: { product, counter, floor: floor.counter },
    },
  );
}

/** Of one that has made way in the signed file nobody knows any more. @throws SITECAST_ROLLOUT_ENDED */
export function refuseUnlisted({ product, rollout }: RolloutRecord, { rollouts }: RolloutsFile): void {
  const { id, state } = rollout;
  if (rollouts.some(listed => listed.id === id)) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_ENDED',
    `rollout ${id} is ${state}, and so long ago that devices know it no more`,
    {
      hint: `A rollout of an older release leads back: \`sitecast rollout start ${product} VERSION --allow-downgrade\`.`,
      data: { rollout: id, state },
    },
  );
}
