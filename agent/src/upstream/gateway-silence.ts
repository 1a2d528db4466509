import { isSystemError } from '@sitecast/shared/errors';
import type { StateFile } from '../state/state-file.ts';
import type { Gateways } from './gateways.ts';

/** Milliseconds that one pause between two tries counts at most: the machine may have slept, or been busy with something else. */
const MAX_STEP_MS = 10 * 60_000;
/** So often it is written down how long the silence has lasted. */
const WRITE_EVERY_MS = 30 * 60_000;
/** Of what was written down before a start, so much doesn't count: it has to be watched again. */
const UNPROVED_MS = 30 * 60_000;

interface GatewaySilenceOptions {
  gateways: Pick<Gateways, 'answers'>;
  stateFile: Pick<StateFile, 'current' | 'change'>;
  /** Milliseconds: what is longer than that is no use to anybody. */
  maxMs: number;
  /** Milliseconds on a clock that never goes back. */
  monotonicMs?: () => number;
}

/**
 * For how long no gateway has answered while this device tried. Only time counts that it has watched: not the time that it was off, for a gateway
 * may have answered others meanwhile. It goes on over a reboot where it was, less half an hour: a power cut may have lost that a gateway had answered.
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

  /** Milliseconds; 0 as soon as one has answered. */
  get forMs(): number {
    return this.#options.gateways.answers === this.#answers ? this.#silentMs : 0;
  }

  /** After each time that all gateways were asked, whatever came of it. */
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
      // A full disk, say. It is tried again; what is in memory counts.
      if (!isSystemError(error)) throw error;
    }
  }
}
