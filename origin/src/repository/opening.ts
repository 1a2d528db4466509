import type { KeyStore } from '../keys/key-store.ts';
import { OnlineKeys } from '../keys/online-keys.ts';
import type { Log } from '../log.ts';
import { ClockLeaps, issuedMsOf } from './clock.ts';
import { type Committed, loadCommitted } from './committed.ts';
import { floorBeyond } from './online-roles.ts';
import { isDamage, readRemains, type Remains } from './rebuild.ts';
import type { RepositoryStore, VersionFloor } from './repository-store.ts';

interface OpeningDeps {
  published: RepositoryStore;
  keyStore: KeyStore;
  /** A clock that nobody sets; milliseconds. */
  elapsedMs?: () => number;
  log: Log;
}

/** What is left of a damaged repository, and the error that reported the damage. */
export type DamagedRepository = Remains & { damage: unknown };

/** A repository as it is found at a start. */
interface FoundRepository {
  keys: OnlineKeys;
  leaps: ClockLeaps;
  current: Committed | undefined;
  /** Instead of `current`: the origin's own roles must be signed again. */
  damaged: DamagedRepository | undefined;
  floor: VersionFloor;
}

/**
 * Ends what an earlier process left unfinished, and reads what is published.
 * @throws SITECAST_REPOSITORY_DAMAGED
 */
export async function findRepository(deps: OpeningDeps): Promise<FoundRepository> {
  const { published, keyStore, elapsedMs = () => performance.now(), log } = deps;
  const { outcome, floor: known, leap } = await published.settle();
  if (outcome === 'undone' || outcome === 'completed')
    log.warn({ outcome }, 'an interrupted change was settled');
  const found = await loadCommitted(published).catch(async (error: unknown) => {
    // Nothing can be signed without knowing which version numbers are used up.
    const remains = isDamage(error) && known ? await readRemains(published) : undefined;
    if (!remains) throw error;
    return { ...remains, damage: error };
  });
  const keys = await OnlineKeys.open(keyStore, { mayCreate: found === undefined });
  const [current, damaged] = found && 'damage' in found ? [undefined, found] : [found, undefined];
  const issuedMs = current ? issuedMsOf(current.timestamp) : (leap?.issuedMs ?? 0);
  const floor = known ?? floorBeyond(found);
  if (found && !known) log.error({ floor }, 'the journal is lost: versions leap');
  return { keys, leaps: new ClockLeaps(elapsedMs, leap, issuedMs), current, damaged, floor };
}
