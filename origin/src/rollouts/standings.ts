import type { Rollout } from '@sitecast/shared/fleet';
import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { ProgressBoard } from '../fleet/progress.ts';
import type { Registry } from '../fleet/registry.ts';
import type { CohortStore } from './cohort-store.ts';
import { isOpen, Ledger, type Standing } from './controller/ledger.ts';
import { GatewayVoices } from './controller/overdue.ts';
import { standingOf } from './controller/standing.ts';
import { type Figures, overdueMs } from './controller/state.ts';
import type { RollbackProgress } from '@sitecast/shared/api';
import { returnOf } from './going-back.ts';
import { bootedCounter, reachedBy } from './match.ts';
import type { RolloutRecord } from './record.ts';
import type { Outcomes, Tallies } from './tallies.ts';

interface StandingsDeps {
  registry: Registry;
  store: Pick<CohortStore, 'cohort'>;
  progress: ProgressBoard;
  tallies: Tallies;
}

export interface Recount {
  ids: string[];
  figures: Figures;
}

/**
 * Who is in the cohort of each rollout that is going on, and how each of them stands. Whom a stage has frozen is in the
 * store: assignments may change afterwards. How they stand is counted from what they have reported.
 */
export class Standings {
  readonly #deps: StandingsDeps;
  readonly #ledgers = new Map<string, { ledger: Ledger; rollout: Rollout }>();

  constructor(deps: StandingsDeps) {
    this.#deps = deps;
  }

  /** Begins to follow a rollout, with the cohort that is stored. */
  async follow({ rollout, product }: RolloutRecord): Promise<void> {
    if (this.#ledgers.has(rollout.id)) return;
    const { registry, store } = this.#deps;
    const rows = await store.cohort(rollout.id);
    // One that nobody has frozen: its order was restored without its cohort.
    if (rows.length === 0)
      rows.push({ stage: 0, ids: [...reachedBy(rollout, product, registry)].map(({ id }) => id) });
    this.#ledgers.set(rollout.id, { ledger: new Ledger(), rollout });
    for (const { stage, ids } of rows) this.join(rollout, stage, ids);
    this.refresh(rollout);
  }

  forget(rolloutId: string): void {
    this.#ledgers.delete(rolloutId);
  }

  ledger(rolloutId: string): Ledger | undefined {
    return this.#ledgers.get(rolloutId)?.ledger;
  }

  figures({ rollout, controller }: RolloutRecord): Figures | undefined {
    return this.ledger(rollout.id)?.figures(controller.stage);
  }

  /** How many have still to go back if it's sent back: the cohort, and latecomers. Undefined for one that has ended. */
  goingBack({ rollout }: RolloutRecord): RollbackProgress | undefined {
    const ledger = this.ledger(rollout.id);
    if (!ledger) return undefined;
    const { registry, tallies } = this.#deps;
    const outcomes = tallies.current(rollout.id);
    const counts: RollbackProgress = { left: 0, lateLeft: 0, stuck: 0, returned: 0 };
    const cohort = [...ledger.members()].map(({ id }) => id);
    for (const id of new Set([...cohort, ...(outcomes?.keys() ?? [])])) {
      const outcome = outcomes?.get(id);
      const status = registry.status(id);
      const facts = {
        standing: this.#standing(rollout, id, outcome),
        state: outcome?.state,
        booted: bootedCounter(status),
        about: status?.last.release?.counter,
      };
      const where = returnOf(rollout, facts);
      if (!where) continue;
      counts[where] += 1;
      if (where === 'left' && !ledger.has(id)) counts.lateLeft += 1;
    }
    return counts;
  }

  /**
   * Whom a rollout that has ended would deal with if it went on, and how they stand. One that has gone on to another release since,
   * or had this one from elsewhere, isn't among them: it neither goes back nor says so.
   * @param outcomes all that devices have reported about it
   */
  recount({ rollout, product, controller }: RolloutRecord, outcomes: Outcomes): Recount {
    const { registry } = this.#deps;
    const ledger = new Ledger();
    const reached = [...reachedBy(rollout, product, registry)].map(({ id }) => id);
    for (const id of new Set([...reached, ...outcomes.keys()])) {
      const member = registry.member(id);
      const outcome = outcomes.get(id);
      const standing = this.#standing(rollout, id, outcome);
      const hasIt = outcome !== undefined && bootedCounter(registry.status(id)) === rollout.release.counter;
      if (member && (standing !== 'well' || hasIt))
        ledger.add({ id, site: member.site, stage: controller.stage }, standing);
    }
    return { ids: [...ledger.members()].map(({ id }) => id), figures: ledger.figures(controller.stage) };
  }

  /** Takes devices into the cohort; those that are in stay as they are. */
  join(rollout: Rollout, stage: number, ids: readonly string[]): void {
    const ledger = this.ledger(rollout.id);
    for (const id of ids) {
      const member = this.#deps.registry.member(id);
      if (ledger && member) ledger.add({ id, site: member.site, stage }, this.#standing(rollout, id));
    }
  }

  /** Counts what devices have reported. @returns the rollouts that it's about */
  count(changes: readonly OutcomeChange[]): Set<string> {
    const touched = new Set<string>();
    for (const { rolloutId, deviceId, after } of changes) {
      const followed = this.#ledgers.get(rolloutId);
      if (!followed) continue;
      followed.ledger.note(deviceId, this.#standing(followed.rollout, deviceId, after));
      touched.add(rolloutId);
    }
    return touched;
  }

  /** Counts everybody anew: another attempt, revocations, what devices run. */
  refresh(rollout: Rollout): void {
    const followed = this.#ledgers.get(rollout.id);
    if (!followed) return;
    followed.rollout = rollout;
    const { ledger } = followed;
    for (const { id, standing } of ledger.members()) {
      const now = this.#standing(rollout, id);
      if (now !== standing) ledger.note(id, now);
    }
    for (const [id, outcome] of this.#deps.tallies.current(rollout.id) ?? [])
      if (!ledger.has(id)) ledger.note(id, this.#standing(rollout, id, outcome));
  }

  /** Finds who is past the deadline. One look at the whole registry, and only if anybody may be. */
  lookForOverdue({ rollout, controller }: RolloutRecord, nowMs: number): void {
    const ledger = this.ledger(rollout.id);
    if (!ledger || controller.phase !== 'active') return;
    const { registry, progress } = this.#deps;
    let voices: GatewayVoices | undefined;
    for (const { id, standing } of ledger.members()) {
      if (!isOpen(standing)) continue;
      const { last } = registry.status(id) ?? {};
      const deadlineMs = overdueMs(controller, last && Date.parse(last.receivedAt));
      const isAlive = nowMs < deadlineMs || progress.get(id, nowMs)?.rollout === rollout.id;
      if (isAlive) {
        ledger.setOverdue(id, undefined);
        continue;
      }
      voices ??= voicesOf(registry);
      const isSilent = standing === 'running' && voices.spokeForOthersAfter(id, last?.via, deadlineMs);
      ledger.setOverdue(id, isSilent ? 'silent' : 'unreachable');
    }
  }

  #standing(
    { id, attempt, release, state }: Rollout,
    deviceId: string,
    outcome: Outcome | undefined = this.#deps.tallies.current(id)?.get(deviceId),
  ): Standing {
    const { registry } = this.#deps;
    return standingOf(
      {
        outcome,
        bootedCounter: bootedCounter(registry.status(deviceId)),
        isRevoked: registry.activeMember(deviceId) === undefined,
      },
      { attempt, counter: release.counter, isGoingBack: state === 'rollingBack' },
    );
  }
}

function voicesOf(registry: Registry): GatewayVoices {
  const voices = new GatewayVoices();
  for (const { id } of registry.members()) {
    const { last } = registry.status(id) ?? {};
    if (last) voices.note(id, last.via, Date.parse(last.receivedAt));
  }
  return voices;
}
