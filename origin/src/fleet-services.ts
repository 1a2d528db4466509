import { fastVerifyById, type VerifySignature } from '@sitecast/shared/identity';
import type { Audit } from './audit/audit.ts';
import type { Events } from './events/events.ts';
import { tellOutcomes } from './events/outcomes.ts';
import { type Fleet, openFleet } from './fleet/fleet.ts';
import type { FleetStore } from './fleet/store.ts';
import { type Log, RecurringErrors } from './log.ts';
import type { Repository } from './repository/repository.ts';
import { goingOnWith } from './rollouts/checks.ts';
import { Rollouts } from './rollouts/rollouts.ts';
import type { Files } from './storage/files.ts';
import type { Room } from './storage/room.ts';
import type { After } from './upkeep.ts';

/** How often what is due is looked for; what failed is tried again then. */
const TEND_INTERVAL_MS = 60_000;

interface FleetServicesDeps {
  repository: Repository;
  files: Files;
  store: FleetStore;
  audit: Audit;
  events: Events;
  room: Room;
  now: () => number;
  after: After;
  log: Log;
}

/** The fleet and its rollouts, which know of each other. */
export interface FleetServices {
  fleet: Fleet;
  rollouts: Rollouts;
  verifyById: VerifySignature;
  /** Ends what is under way and keeps what is only in memory. */
  close(): Promise<void>;
}

export async function openFleetServices(deps: FleetServicesDeps): Promise<FleetServices> {
  const { repository, files, store, audit, events, room, now, after, log } = deps;
  const verifyById = fastVerifyById();
  const fleet: Fleet = await openFleet({
    store,
    audit,
    signer: () => {
      const pair = repository.signerOf('rollouts');
      return { keyId: pair.keyId, sign: async bytes => pair.fastSign(bytes) };
    },
    verifyById,
    outcomesOf: rolloutId => rollouts.tallies.complete(rolloutId),
    isRolloutOf: (rolloutId, product) => rollouts.isOf(rolloutId, product),
    rolloutOf: (product, counter) => goingOnWith(rollouts.list(), product, counter),
    onOutcomes: changes => {
      rollouts.countOutcomes(changes);
      tellOutcomes(events, changes);
    },
    room,
    now,
  });
  const { registry, progress } = fleet;
  const rollouts: Rollouts = await Rollouts.open({
    repository,
    registry,
    progress,
    files,
    audit,
    events,
    now,
    after,
    log,
  });
  const errors = new RecurringErrors(log);
  const tend = async (): Promise<void> => {
    await rollouts.reconcile();
    await registry.saveSeen();
    errors.succeeded('tend');
  };
  const stopTending = again(after, TEND_INTERVAL_MS, tend, error =>
    errors.failed('tend', error, 'tending the fleet failed', { retryMs: TEND_INTERVAL_MS }),
  );
  return {
    fleet,
    rollouts,
    verifyById,
    async close() {
      await stopTending();
      await fleet.intake.idle();
      await rollouts.stop();
      await registry.saveSeen();
    },
  };
}

/** @returns ends it, once what is under way has ended */
function again(
  after: After,
  everyMs: number,
  act: () => Promise<void>,
  failed: (error: unknown) => void,
): () => Promise<void> {
  let isStopped = false;
  let underWay = Promise.resolve();
  let cancel = (): void => {};
  const schedule = (): void => {
    if (isStopped) return;
    cancel = after(everyMs, () => {
      underWay = act().catch(failed).finally(schedule);
    });
  };
  schedule();
  return async () => {
    isStopped = true;
    cancel();
    await underWay;
  };
}
