import { isSystemError } from '@sitecast/shared/errors';
import type { StateFile } from '../state/state-file.ts';
import type { Gateways } from './gateways.ts';

/** The most that one pause between two tries counts, in ms: the machine may have been suspended, or busy. */
const MAX_STEP_MS = 10 * 60_000;
/** How often the duration of the silence is saved. */
const WRITE_EVERY_MS = 30 * 60_000;
/** How much of the saved duration doesn't count after a start: it must be observed again. */
const UNPROVED_MS = 30 * 60_000;

interface GatewaySilenceOptions {
  gateways: Pick<Gateways, 'answers'>;
  stateFile: Pick<StateFile, 'current' | 'change'>;
  /** In ms. A longer silence has no further effect. */
  maxMs: number;
  /** Milliseconds on a clock that never goes back. */
  monotonicMs?: () => number;
}

/**
 * How long no gateway has answered although this device tried. Only time that the device has observed counts: not the time when it was off,
 * because a gateway may have answered others meanwhile. After a reboot it continues with half an hour less, since a power cut may have lost
 * that a gateway had answered.
 */
export class GatewaySilence {
  readonly #options: GatewaySilenceOptions;
  readonly #monotonicMs: () => number;
  #silentMs: number;
  #answers: number;
  #triedMs: number | undefined;

  constructor(options: GatewaySilenceOptions) {
    const { stateFile, maxMs, gateways, monotonicMs = () => performance.now() } = options;
    this.#options = options;
    this.#monotonicMs = monotonicMs;
    const notedMs = Math.min(stateFile.current.silentMs ?? 0, maxMs);
    this.#silentMs = Math.max(0, notedMs - UNPROVED_MS);
    this.#answers = gateways.answers;
  }

  /** In ms; 0 as soon as one has answered. */
  get forMs(): number {
    return this.#options.gateways.answers === this.#answers ? this.#silentMs : 0;
  }

  /** Called each time when all gateways were asked, whatever the result. */
  async note(): Promise<void> {
    const { gateways, maxMs } = this.#options;
    const nowMs = this.#monotonicMs();
    const stepMs = Math.min(nowMs - (this.#triedMs ?? nowMs), MAX_STEP_MS);
    this.#triedMs = nowMs;
    const hasAnswer = gateways.answers !== this.#answers;
    this.#answers = gateways.answers;
    this.#silentMs = hasAnswer ? 0 : Math.min(this.#silentMs + stepMs, maxMs);
    await this.#write();
  }

  async #write(): Promise<void> {
    const { stateFile, maxMs } = this.#options;
    const notedMs = stateFile.current.silentMs ?? 0;
    const isOver = this.#silentMs === 0 && notedMs > 0;
    const isLonger = this.#silentMs >= Math.min(notedMs + WRITE_EVERY_MS, maxMs) && notedMs < maxMs;
    if (!isOver && !isLonger) return;
    try {
      await stateFile.change({ silentMs: this.#silentMs });
    } catch (error) {
      // For example a full disk. It is tried again; the value in memory counts.
      if (!isSystemError(error)) throw error;
    }
  }
}
