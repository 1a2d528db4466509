import type { SitecastError } from '@sitecast/shared/errors';
import type { DeviceState } from '@sitecast/shared/fleet';
import type { Order } from '../update/choose.ts';
import { isSameUpdate, ROLLBACK_ORDERED, type Reason } from '../state/agent-state.ts';
import type { Log } from '../ports.ts';
import type { CycleResult, Status } from '../state/status.ts';

/** The subject of a step. */
export interface Subject {
  rollout?: { id: string; attempt: number } | undefined;
  release?: { counter: number; version: string } | undefined;
  reason?: Reason | undefined;
}

/** What each step of an update is called in the log. `cycleEnd` logs the states in which a cycle ends. */
const STEPS: Partial<Record<DeviceState, string>> = {
  installing: 'telling the boot loader to try',
  rebooting: 'rebooting into',
  confirming: 'health checks of',
  completed: 'confirmed',
};

/** Logs the changes of the device's state, each once: for people who read the journal. */
export class StateChangeLogger {
  readonly #log: Log;
  #order: Order | undefined;
  #lastEnd = '';
  #enrolment = '';

  constructor(log: Log) {
    this.#log = log;
  }

  enrolment(
    enrolment: Status['enrolment'],
    data: Partial<Record<'name' | 'site' | 'wish', string | undefined>> & { reason?: string },
  ): void {
    const key = [enrolment, data.name, data.site, data.reason].join(' ');
    if (this.#enrolment === key) return;
    this.#enrolment = key;
    this.#log(
      enrolment === 'refused' || enrolment === 'revoked' ? 'warn' : 'info',
      `enrolment: ${enrolment}`,
      data,
    );
  }

  order(order: Order): void {
    if (this.#order && isSameUpdate(this.#order, order)) return;
    this.#order = order;
    const what = order.kind === 'rollBack' ? 'to go back to' : 'to install';
    this.#log('info', `ordered ${what} ${order.release.version}`, { rollout: order.rollout });
  }

  /** A step of an update that is reported to the origin, too. A cycle that ends with it isn't logged once more. */
  step(state: DeviceState, { release, rollout, reason }: Subject): void {
    const isEnd = state === 'completed' || state === 'failed' || state === 'rolledBack';
    if (isEnd) this.#lastEnd = endKey({ state, reason });
    const version = release?.version ?? 'an unknown release';
    const data = { ...(rollout && { rollout }), ...(reason && { code: reason.code }) };
    const why = reason ? `: ${reason.message}` : '';
    if (state === 'failed') this.#log('error', `${version} failed${why}`, data);
    else if (state === 'rolledBack')
      this.#log('warn', `rolled back ${wayBack(reason)} ${version}${why}`, data);
    else if (STEPS[state] !== undefined) this.#log('info', `${STEPS[state]} ${version}${why}`, data);
  }

  downloading({ release }: Order, bytes: Record<string, number>): void {
    this.#log('info', `downloading ${release.version}`, bytes);
  }

  verified({ release }: Order, slot: string): void {
    this.#log('info', `slot ${slot} holds ${release.version}, verified`);
  }

  /** Whether reports can be recorded. */
  storage(problem: string | undefined): void {
    if (problem === undefined) this.#log('info', 'reports are recorded again');
    else this.#log('warn', `reports can't be recorded, and wait in memory: ${problem}`);
  }

  /** A report that can't be made, even without its texts. */
  untold(state: DeviceState, { code, message }: SitecastError): void {
    this.#log('error', `the origin isn't told of the state ${state}: ${message}`, { code });
  }

  /** How a cycle ended. It is logged where state or reason differ from the last time. */
  cycleEnd({ state, waitingFor, reason }: CycleResult): void {
    const key = endKey({ state, waitingFor, reason });
    if (this.#lastEnd === key) return;
    this.#lastEnd = key;
    const what = state === 'waiting' && waitingFor !== undefined ? `waiting for ${waitingFor}` : state;
    this.#log(
      state === 'failed' || state === 'blocked' || state === 'clockSuspect' ? 'warn' : 'info',
      reason ? `${what}: ${reason.message}` : what,
      reason && { code: reason.code },
    );
  }
}

function endKey({ state, waitingFor, reason }: Pick<CycleResult, 'state' | 'waitingFor' | 'reason'>): string {
  return [state, waitingFor, reason?.code].join(' ');
}

/** An ordered roll-back names the release that it led to; a fall-back names the one that failed. */
const wayBack = (reason: Reason | undefined): string => (reason?.code === ROLLBACK_ORDERED ? 'to' : 'from');
