import { setTimeout as delay } from 'node:timers/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { placeIn, type Reason } from '../state/agent-state.ts';
import { SLOT_NAMES, type Slot, type SlotName } from '../ports.ts';
import type { StateFile } from '../state/state-file.ts';
import type { Status } from '../state/status.ts';

interface Watched {
  slots: Readonly<Record<SlotName, Slot>>;
  stateFile: Pick<StateFile, 'current'>;
}

/** A medium that hangs in the kernel answers nobody. */
const MAX_LOOK_MS = 2000;

/** What is wrong with the slots at present, beside what is remembered of them: for whoever looks at the status. */
export class SlotWatch {
  readonly #parts: Watched;
  readonly #maxLookMs: number;
  readonly #problems = new Map<SlotName, Reason | undefined>();
  /** Under way: one that hangs is waited for by the next ones, too. */
  readonly #looks = new Map<SlotName, Promise<Reason | undefined>>();

  constructor(parts: Watched, maxLookMs = MAX_LOOK_MS) {
    this.#parts = parts;
    this.#maxLookMs = maxLookMs;
  }

  /** By the last look. */
  get shown(): Status['slots'] {
    return { A: this.#shownOf('A'), B: this.#shownOf('B') };
  }

  /** @returns as `shown`, by a look that is taken now */
  async look(booted: SlotName | undefined): Promise<Status['slots']> {
    await Promise.all(
      SLOT_NAMES.map(async name => this.#problems.set(name, await this.#lookInTime(name, booted === name))),
    );
    return this.shown;
  }

  #shownOf(name: SlotName): Status['slots'][SlotName] {
    const { slots, stateFile } = this.#parts;
    const problem = this.#problems.get(name);
    return { ...stateFile.current.slots[name], path: slots[name].path, ...(problem ? { problem } : {}) };
  }

  async #lookInTime(name: SlotName, isBooted: boolean): Promise<Reason | undefined> {
    const look = this.#looks.get(name) ?? this.#look(name, isBooted).finally(() => this.#looks.delete(name));
    this.#looks.set(name, look);
    const over = new AbortController();
    const late = delay(this.#maxLookMs, undefined, { signal: over.signal, ref: false }).then(
      () => ({
        code: 'SITECAST_SLOT_UNRELIABLE',
        message: `the slot ${this.#parts.slots[name].path} does not answer`,
      }),
      // The look was done in time.
      () => undefined,
    );
    return Promise.race([look, late]).finally(() => over.abort());
  }

  async #look(name: SlotName, isBooted: boolean): Promise<Reason | undefined> {
    const { slots, stateFile } = this.#parts;
    try {
      await slots[name].look(placeIn(stateFile.current, name, slots[name].path), { isBooted });
      return undefined;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      return { code: error.code, message: error.message };
    }
  }
}
