import { repeat } from '@sitecast/shared/async';
import { fastVerifyById, type VerifySignature } from '@sitecast/shared/identity';
import type { Audit } from './audit/audit.ts';
import type { Events } from './events/events.ts';
import { tellOutcomes } from './events/outcomes.ts';
import { tellSilence } from './events/silence.ts';
import { type Fleet, openFleet } from './fleet/fleet.ts';
import { LOOK_EVERY_MS } from './fleet/presence.ts';
import type { FleetStore } from './fleet/fleet-store.ts';
import { type Log, RecurringErrors } from './log.ts';
import type { Repository } from './repository/repository.ts';
import type { CohortStore } from './rollouts/cohort-store.ts';
import { Rollouts } from './rollouts/rollouts.ts';
import type { Room } from './room.ts';
import type { After } from './upkeep.ts';

/** How often what is due is looked for; what failed is tried again then. */
const TEND_INTERVAL_MS = 60_000;
/** How often it's written down when members were last seen. */
const SAVE_SEEN_INTERVAL_MS = 5 * 60_000;

interface FleetServicesDeps {
  repository: Repository;
  fleetStore: FleetStore;
  cohortStore: CohortStore;
  audit: Audit;
  events: Events;
  room: Room;
  /** What is kept of all reports together, about. */
  maxReportBytes: number;
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
  const { repository, fleetStore, cohortStore, audit, events, room, maxReportBytes, now, after, log } = deps;
  const verifyById = fastVerifyById();
  const fleet: Fleet = await openFleet({
    store: fleetStore,
    signer: () => {
      const pair = repository.signerOf('rollouts');
      return { keyId: pair.keyId, sign: async bytes => pair.fastSign(bytes) };
    },
    verifyById,
    outcomesOf: rolloutId => rollouts.cohorts.outcomes.complete(rolloutId),
    isRolloutOf: (rolloutId, product) => rollouts.isOf(rolloutId, product),
    rolloutOf: (product, counter) => rollouts.idUnderWay(product, counter),
    onOutcomes: changes => {
      rollouts.countOutcomes(changes);
      tellOutcomes(events, changes, id => fleet.registry.member(id)?.name);
    },
    room,
    maxReportBytes,
    now,
  });
  const { registry, progress, presence } = fleet;
  const rollouts: Rollouts = await Rollouts.open({
    repository,
    registry,
    store: cohortStore,
    progress,
    audit,
    events,
    now,
    after,
    log,
  });
  const every = repeating(after, new RecurringErrors(log));
  const stopTending = every(TEND_INTERVAL_MS, tending(fleet, rollouts, now), 'tending the fleet failed');
  const stopTidying = every(TEND_INTERVAL_MS, () => fleet.intake.tidy(), 'tidying reports failed');
  const look = async (): Promise<void> => tellSilence(presence.look(), { events, registry, log });
  const stopLooking = every(LOOK_EVERY_MS, look, 'looking for silent gateways failed');
  return {
    fleet,
    rollouts,
    verifyById,
    async close() {
      await stopLooking();
      await stopTending();
      await stopTidying();
      await fleet.intake.idle();
      await rollouts.stop();
      await presence.save({ isLast: true });
      await fleetStore.saveSeen();
    },
  };
}

/** What is due every minute. */
function tending({ store, presence }: Fleet, rollouts: Rollouts, now: () => number): () => Promise<void> {
  let savedMs = now();
  return async () => {
    await rollouts.reconcile();
    await presence.save();
    // Every gateway speaks every minute.
    if (Math.abs(now() - savedMs) < SAVE_SEEN_INTERVAL_MS) return;
    await store.saveSeen();
    savedMs = now();
  };
}

/** @returns begins something that is done again and again, whose failures are logged once; what that returns stops it */
function repeating(after: After, errors: RecurringErrors) {
  return (everyMs: number, act: () => Promise<void>, failure: string): (() => Promise<void>) => {
    const attempt = async (): Promise<void> => {
      try {
        await act();
        errors.succeeded(failure);
      } catch (error) {
        errors.failed(failure, error, failure, { retryMs: everyMs });
      }
    };
    return repeat(attempt, { everyMs, after });
  };
}
