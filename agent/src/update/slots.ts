import { isDeepStrictEqual } from 'node:util';
import { sleep } from '@sitecast/shared/async';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type Log, SLOT_NAMES, type Slot, type SlotName, type SlotReader } from '../ports.ts';
import { placeIn, type Reason, type SlotPlace, type SlotRecord } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { Status } from '../state/status.ts';

interface SlotDependencies {
  slots: Readonly<Record<SlotName, Slot>>;
  stateFile: Pick<StateFile, 'current' | 'change'>;
}

/**
 * Finds where a slot is, and remembers that: a slot that goes missing later must not be created anew.
 * @throws SITECAST_SLOT_MISSING, and what else `Slot.locate` throws
 */
export async function locateSlot({ slots, stateFile }: SlotDependencies, name: SlotName): Promise<SlotPlace> {
  const known = placeIn(stateFile.current, name, slots[name].path);
  const place = await slots[name].locate(known);
  if (!isDeepStrictEqual(place, stateFile.current.slotPlaces?.[name]))
    await stateFile.change(({ slotPlaces }) => ({ slotPlaces: { ...slotPlaces, [name]: place } }));
  return place;
}

/** Locates both slots at the start. A missing slot is only logged; an update waits for it. */
export async function locateSlots(deps: SlotDependencies & { log: Log }): Promise<void> {
  for (const name of SLOT_NAMES) {
    try {
      await locateSlot(deps, name);
    } catch (error) {
      // The disk is full, for example. The place will be noted later.
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
      deps.log('warn', error.message, { code: error.code });
    }
  }
}

/**
 * Notes once what the factory installed in the running slot: at least that it runs, and its release if that is known.
 * @returns why that can't be known yet: a device node that appears late isn't an empty slot
 */
export async function noteFactorySlot(
  deps: SlotDependencies & { factoryRelease: { counter: number; version: string } | undefined },
  booted: SlotName,
): Promise<SitecastError | undefined> {
  const { slots, stateFile, factoryRelease } = deps;
  if (stateFile.current.booted !== undefined) return undefined;
  let reader: SlotReader | undefined;
  try {
    await locateSlot(deps, booted);
    reader = await slots[booted].openForReading();
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_SLOT_MISSING') return error;
    throw error;
  }
  await reader?.close();
  const record: SlotRecord =
    reader === undefined
      ? { state: 'empty' }
      : { state: 'altered', isConfirmed: true, ...(factoryRelease ? { release: factoryRelease } : {}) };
  await stateFile.change(state => ({ booted, slots: { ...state.slots, [booted]: record } }));
  return undefined;
}

/** In ms. A medium that hangs in the kernel never answers. */
const MAX_LOOK_MS = 2000;

/** What is wrong with the slots at present, in addition to what the state says of them: for the status. */
export class SlotWatch {
  readonly #deps: Pick<SlotDependencies, 'slots'> & { stateFile: Pick<StateFile, 'current'> };
  readonly #maxLookMs: number;
  readonly #problems = new Map<SlotName, Reason | undefined>();
  /** Looks under way. If one hangs, the next look waits for it instead of starting another. */
  readonly #looks = new Map<SlotName, Promise<Reason | undefined>>();

  constructor(
    deps: Pick<SlotDependencies, 'slots'> & { stateFile: Pick<StateFile, 'current'> },
    maxLookMs = MAX_LOOK_MS,
  ) {
    this.#deps = deps;
    this.#maxLookMs = maxLookMs;
  }

  /** The result of the last look. */
  get shown(): Status['slots'] {
    return { A: this.#shownOf('A'), B: this.#shownOf('B') };
  }

  /** Looks now. @returns like `shown` */
  async look(booted: SlotName | undefined): Promise<Status['slots']> {
    await Promise.all(
      SLOT_NAMES.map(async name => this.#problems.set(name, await this.#lookInTime(name, booted === name))),
    );
    return this.shown;
  }

  #shownOf(name: SlotName): Status['slots'][SlotName] {
    const { slots, stateFile } = this.#deps;
    const problem = this.#problems.get(name);
    return { ...stateFile.current.slots[name], path: slots[name].path, ...(problem ? { problem } : {}) };
  }

  async #lookInTime(name: SlotName, isBooted: boolean): Promise<Reason | undefined> {
    const look = this.#looks.get(name) ?? this.#look(name, isBooted).finally(() => this.#looks.delete(name));
    this.#looks.set(name, look);
    const over = new AbortController();
    const late = sleep(this.#maxLookMs, over.signal).then(hasPassed =>
      hasPassed
        ? {
            code: 'SITECAST_SLOT_UNRELIABLE',
            message: `the slot ${this.#deps.slots[name].path} does not answer`,
          }
        : undefined,
    );
    return Promise.race([look, late]).finally(() => over.abort());
  }

  async #look(name: SlotName, isBooted: boolean): Promise<Reason | undefined> {
    const { slots, stateFile } = this.#deps;
    try {
      await slots[name].look(placeIn(stateFile.current, name, slots[name].path), { isBooted });
      return undefined;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      return { code: error.code, message: error.message };
    }
  }
}
