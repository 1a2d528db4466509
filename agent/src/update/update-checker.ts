import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, parseRollouts, rolloutsTarget } from '@sitecast/shared/fleet';
import { parseProductFile, productTarget } from '@sitecast/shared/release';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { AgentClock, BootControl } from '../ports.ts';
import type { Outbox } from '../reports/outbox.ts';
import type { Reporter } from '../reports/reporter.ts';
import type { StateChangeLogger } from '../reports/state-change-logger.ts';
import type { Reason } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { CycleResult, StatusBoard } from '../state/status.ts';
import type { GatewaySilence } from '../upstream/gateway-silence.ts';
import type { Membership } from '../upstream/membership.ts';
import type { Trust } from '../upstream/trust.ts';
import { type Choice, choose, type Facts } from './choose.ts';

/** The result of a check: facts, and what follows from them. */
export interface UpdateContext {
  facts: Facts;
  choice: Choice;
  isRefreshed: boolean;
}

interface UpdateCheckerDependencies {
  product: string;
  hardware: string;
  trust: Trust;
  membership: Membership;
  stateFile: StateFile;
  boot: Pick<BootControl, 'read'>;
  clock: AgentClock;
  status: StatusBoard;
  outbox: Pick<Outbox, 'newest'>;
  reporter: Reporter;
  stateChanges: StateChangeLogger;
  exchange: Pick<SiteExchange, 'follow'> | undefined;
  silence: Pick<GatewaySilence, 'note'>;
}

/** Finds out what the repository orders and what the origin says this device is, and chooses. */
export class UpdateChecker {
  readonly #deps: UpdateCheckerDependencies;

  constructor(deps: UpdateCheckerDependencies) {
    this.#deps = deps;
  }

  /** Refreshes, makes sure of the assignment, and chooses. @returns a result instead where that can't be done */
  async check(signal: AbortSignal): Promise<UpdateContext | CycleResult> {
    const { trust, stateFile, product, hardware, boot, exchange } = this.#deps;
    const problem = await this.#refresh(signal);
    const { signers } = trust;
    if (!signers) return problem ?? { state: 'waiting', waitingFor: 'gateway' };
    const assignment = await this.#membership(signal, problem === undefined);
    if (!('id' in assignment)) return assignment;
    // With such a clock all metadata seem expired, so nothing can be chosen.
    if (problem?.state === 'clockSuspect') return problem;
    const documents = await this.#documents(signal);
    if (!documents) return problem ?? { state: 'idle' };
    exchange?.follow(documents.rollouts.revoked);
    const facts: Facts = {
      product,
      hardware,
      assignment,
      ...documents,
      booted: (await boot.read()).booted,
      agentState: stateFile.current,
    };
    const choice = choose(facts);
    await this.#latch(choice.latches);
    return { facts: { ...facts, agentState: stateFile.current }, choice, isRefreshed: problem === undefined };
  }

  /** @returns why the metadata couldn't be refreshed; undefined if they could */
  async #refresh(signal: AbortSignal): Promise<CycleResult | undefined> {
    const { trust, status } = this.#deps;
    let problem: Reason | undefined;
    let isAway = false;
    try {
      await trust.refresh(signal);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      problem = { code: error.code, message: error.message };
      isAway = error.kind === 'unreachable';
    }
    await this.#deps.silence.note();
    const clock = trust.clock();
    const issued = clock.issuedMs === undefined ? undefined : new Date(clock.issuedMs).toISOString();
    status.set({
      metadata: { timestampVersion: trust.timestampVersion, issued, clock: await this.#clockWord(), problem },
    });
    if (!problem) return undefined;
    if (clock.state === 'suspect') {
      const message = `the clock says ${new Date(this.#deps.clock.now()).toISOString()}, the newest metadata is from ${issued}`;
      return { state: 'clockSuspect', reason: { code: 'SITECAST_CLOCK_SUSPECT', message } };
    }
    return { state: 'waiting', waitingFor: isAway ? 'gateway' : 'metadata', reason: problem };
  }

  /** @returns the clock's state for the status; `originAhead` where the system says that this device's clock is right */
  async #clockWord(): Promise<string> {
    const { trust, clock } = this.#deps;
    const { state } = trust.clock();
    return state === 'behind' && (await clock.isSynchronised()) === true ? 'originAhead' : state;
  }

  async #membership(signal: AbortSignal, isOnline: boolean): Promise<Assignment | CycleResult> {
    const { trust, membership, status, stateChanges } = this.#deps;
    const { signers } = trust;
    if (!signers) return { state: 'waiting', waitingFor: 'gateway' };
    const stored = membership.stored(signers);
    if (stored && !isOnline) return this.#enrolled(stored);
    try {
      const found = await membership.update(signers, signal);
      if (found !== 'pending') return this.#enrolled(found);
      status.set({ enrolment: 'pending' });
      stateChanges.enrolment('pending', { wish: status.current.wish });
      return { state: 'waiting', waitingFor: 'acceptance', reason: waitsForOperator };
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      if (stored) return this.#enrolled(stored);
      if (error.code === 'SITECAST_ENROLMENT_REFUSED') {
        status.set({ enrolment: 'refused' });
        stateChanges.enrolment('refused', { reason: error.message });
      }
      const reason = { code: error.code, message: error.message };
      return { state: 'waiting', waitingFor: error.kind === 'unreachable' ? 'gateway' : 'enrolment', reason };
    }
  }

  async #enrolled(assignment: Assignment): Promise<Assignment> {
    const { status, reporter, outbox, stateChanges } = this.#deps;
    const { name, site } = assignment;
    const enrolment = assignment.revoked === true ? 'revoked' : 'enrolled';
    status.set({ enrolment, name, site });
    stateChanges.enrolment(enrolment, { name, site });
    if (!outbox.newest) await reporter.report('idle');
    return assignment;
  }

  async #documents(signal: AbortSignal): Promise<Pick<Facts, 'productFile' | 'rollouts'> | undefined> {
    const { trust, product } = this.#deps;
    const productFile = await trust.document(productTarget(product), signal);
    const rollouts = await trust.document(rolloutsTarget(product), signal);
    if (!productFile || !rollouts) return undefined;
    return { productFile: parseProductFile(productFile), rollouts: parseRollouts(rollouts) };
  }

  async #latch(ids: readonly string[]): Promise<void> {
    const { stateFile, clock } = this.#deps;
    if (ids.length === 0) return;
    const latchedAt = new Date(clock.now()).toISOString();
    const latched = ids.map(id => ({ id, latchedAt }));
    await stateFile.change(({ rollouts }) => {
      const isNew = ({ id }: { id: string }) => !rollouts.some(entry => entry.id === id);
      return { rollouts: [...rollouts, ...latched.filter(isNew)] };
    });
  }
}

const waitsForOperator: Reason = {
  code: 'SITECAST_ENROLMENT_PENDING',
  message: 'waits for an operator to accept this device (`sitecast device accept`)',
};
