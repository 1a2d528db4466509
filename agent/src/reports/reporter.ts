import { TokenBucket } from '@sitecast/shared/bounded';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type DeviceState, fittingEvent, type Report, type ReportEvent } from '@sitecast/shared/fleet';
import pLimit from 'p-limit';
import type { AgentClock } from '../ports.ts';
import type { Outbox } from './outbox.ts';
import type { StateChangeLogger, Subject } from './state-change-logger.ts';

/** Code of the report that names a source of wrong bytes. */
export const SOURCE_BANNED = 'SITECAST_SOURCE_BANNED';
/** States that only say that the device waits. */
const MERE_WAITING: ReadonlySet<DeviceState> = new Set(['waiting', 'clockSuspect']);
/** What goes on after a wait. */
const GOING_ON: ReadonlySet<DeviceState> = new Set(['downloading', 'verifying']);
/**
 * What was said already and is so again: a wait of the same kind with other figures, or a download that goes on after one. A device that
 * waits and goes on in turns doesn't say so each time.
 */
const SAID_AGAIN = { perS: 1 / 3600, burst: 4 };
/** Bytes. While more waits for the origin, each reason to wait is recorded once, or weeks of changing reasons would fill the outbox. */
const MUCH_WAITING_BYTES = 64 * 1024;
/** Reports that wait in memory while a full disk keeps them from being recorded. */
const MAX_WAITING = 64;

interface ReporterDependencies {
  outbox: Pick<Outbox, 'append' | 'recent' | 'pendingBytes'>;
  clock: AgentClock;
  stateChanges: StateChangeLogger;
  /** Why nothing can be recorded from now on; undefined: it can again. */
  onProblem?: (problem: string | undefined) => void;
  /** What each report says of the device besides its state. @param counter of the release that the report is about */
  facts: (
    counter: number | undefined,
  ) => Pick<ReportEvent, 'timestampVersion' | 'booted' | 'transfer' | 'inventory'>;
}

/** Records in the device's chain of reports what happened, once each, however often the agent is started again. */
export class Reporter {
  readonly #outbox: ReporterDependencies['outbox'];
  readonly #clock: AgentClock;
  readonly #stateChanges: StateChangeLogger;
  readonly #facts: ReporterDependencies['facts'];
  readonly #saidAgain = new TokenBucket({ ...SAID_AGAIN, now: () => performance.now() });
  #waiting: ReportEvent[] = [];
  /** One at a time: two would record one event twice, and drop another. */
  readonly #inTurn = pLimit(1);
  readonly #onProblem: ReporterDependencies['onProblem'];
  #problem: string | undefined;

  constructor(deps: ReporterDependencies) {
    this.#outbox = deps.outbox;
    this.#clock = deps.clock;
    this.#stateChanges = deps.stateChanges;
    this.#facts = deps.facts;
    this.#onProblem = deps.onProblem;
  }

  /** Why nothing can be recorded at present. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /**
   * Records a state, unless the newest report says the same; with `isOnce`, unless any report of this attempt does. So that nothing stays
   * shown that is over, now and then also a wait with another text than the newest report has, and what goes on after a wait. A reason to
   * wait is recorded once while much waits for the origin.
   * Never throws for a full disk: an update mustn't fail because it can't be reported.
   */
  async report(state: DeviceState, subject: Subject = {}, isOnce = false): Promise<void> {
    const event = this.#eventOf(state, subject);
    if (this.#isSaid(event, isOnce)) return;
    this.#stateChanges.step(state, subject);
    this.#waiting.push(event);
    this.#waiting.splice(0, this.#waiting.length - MAX_WAITING);
    await this.flush();
  }

  /** Records what couldn't be recorded until now. */
  flush(): Promise<void> {
    return this.#inTurn(() => this.#flush());
  }

  async #flush(): Promise<void> {
    for (let event = this.#waiting[0]; event; event = this.#waiting[0]) {
      try {
        await this.#outbox.append(event);
      } catch (error) {
        const isFull = isSystemError(error) || (error instanceof SitecastError && error.kind === 'noSpace');
        if (!isFull && !(error instanceof SitecastError)) throw error;
        if (isFull) {
          this.#noteProblem(error.message);
          return;
        }
        // This one never can be recorded, so the later ones don't wait for it.
        this.#stateChanges.untold(event.state, error);
      }
      this.#waiting.shift();
    }
    this.#noteProblem(undefined);
  }

  #noteProblem(problem: string | undefined): void {
    const isNew = this.#problem !== problem;
    this.#problem = problem;
    if (isNew) this.#onProblem?.(problem);
  }

  #eventOf(state: DeviceState, { rollout, release, reason }: Subject): ReportEvent {
    // In the form that is recorded, so that it can be compared with earlier reports.
    return fittingEvent({
      ...this.#facts(release?.counter),
      at: new Date(this.#clock.now()).toISOString(),
      state,
      ...(rollout ? { rollout: { id: rollout.id, attempt: rollout.attempt } } : {}),
      ...(release && release.counter > 0
        ? { release: { counter: release.counter, version: release.version } }
        : {}),
      ...(reason ? { reason } : {}),
    });
  }

  #isSaid(event: ReportEvent, isOnce: boolean): boolean {
    const key = keyOf(event);
    const said: Pick<Report, 'state' | 'rollout' | 'release' | 'reason'>[] = [
      ...this.#outbox.recent(),
      ...this.#waiting,
    ];
    const newest = said.at(-1);
    const isWait = MERE_WAITING.has(event.state);
    if (newest && keyOf(newest) === key)
      return !isWait || newest.reason?.message === event.reason?.message || !this.#mayRepeat();
    const isMuchWaiting = isWait && this.#outbox.pendingBytes > MUCH_WAITING_BYTES;
    const isSaid = (isOnce || isMuchWaiting) && said.some(report => keyOf(report) === key);
    const goesOn = GOING_ON.has(event.state) && newest !== undefined && MERE_WAITING.has(newest.state);
    return isSaid && !(goesOn && this.#mayRepeat());
  }

  #mayRepeat(): boolean {
    return this.#outbox.pendingBytes <= MUCH_WAITING_BYTES && this.#saidAgain.take();
  }
}

/** Two reports with the same key say the same. Each misbehaving source has a key of its own. */
function keyOf({
  state,
  rollout,
  release,
  reason,
}: Pick<ReportEvent, 'state' | 'rollout' | 'release' | 'reason'>): string {
  const subject = reason?.code === SOURCE_BANNED ? reason.message : undefined;
  return [state, rollout?.id, rollout?.attempt, release?.counter, reason?.code, subject].join(' ');
}
