import { SitecastError } from '@sitecast/shared/errors';
import {
  type BootControl,
  type BootState,
  type LoaderCapabilities,
  otherSlot,
  type RememberedBoot,
  SLOT_NAMES,
  type SlotName,
} from '../ports.ts';
import { kernelBootId } from './booted-slot.ts';
import { patiently, runReboot, type VerbContext, withGrace } from './boot-verb.ts';

/** Variables of a boot loader, by name. */
export type Variables = ReadonlyMap<string, string>;

/** Storage of a boot loader's variables. */
export interface BootEnvironment {
  /** For messages. */
  readonly name: string;
  /** Whether a power cut during `write` leaves either all old values or all new ones. */
  isAtomic(): Promise<boolean>;
  read(signal: AbortSignal): Promise<Variables | 'missing' | 'damaged'>;
  /** The slot that the loader starts where the variables are lost; undefined: not known. */
  readLastGood?(): Promise<SlotName | undefined>;
  /**
   * Writes all these at once. They survive a power cut when it resolves.
   * @param good a slot that is good before and after the change: it will run if the variables are lost
   */
  write(changes: Variables, good: SlotName, signal: AbortSignal): Promise<void>;
}

/** How variables describe the slots. The variables that a method returns are written at once. */
export interface BootScheme {
  maxTries: number;
  /** @returns undefined where the variables aren't set */
  next(variables: Variables): SlotName | undefined;
  /** The starts that a slot has left; undefined where it isn't on trial. */
  left(variables: Variables, slot: SlotName): number | undefined;
  /** All boots run the slot, which is good. */
  only(slot: SlotName): Variables;
  /** No boot runs the slot. The other one is good. */
  without(slot: SlotName): Variables;
  /** The next boots run the slot, then the other one, which is good. */
  trial(slot: SlotName, tries: number): Variables;
  /** Whether a good running slot must be noted again: some scripts count its boots, too. */
  isWorn(variables: Variables, booted: SlotName): boolean;
}

interface EnvironmentBootOptions extends VerbContext {
  environment: BootEnvironment;
  scheme: BootScheme;
  bootedSlot: () => Promise<SlotName>;
  /** Default: the kernel's boot id. */
  bootId?: () => Promise<string>;
  rebootCommand: string;
}

const NOTHING: RememberedBoot = { slots: [], onTrial: undefined };

/** Boot control by the variables of a boot loader that counts boots itself. */
export class EnvironmentBootControl implements BootControl {
  readonly #options: EnvironmentBootOptions;

  constructor(options: EnvironmentBootOptions) {
    this.#options = options;
  }

  async capabilities(): Promise<LoaderCapabilities> {
    const { scheme, environment } = this.#options;
    return { maxTries: scheme.maxTries, countsHangs: true, isAtomic: await environment.isAtomic() };
  }

  async start(remembered: RememberedBoot = NOTHING): Promise<BootState> {
    const { scheme, environment } = this.#options;
    const booted = await this.#options.bootedSlot();
    const [likely = booted] = remembered.slots;
    const isGood = booted === likely && booted !== remembered.onTrial;
    const found = await this.#read();
    const lost = this.#lossIn(found);
    const isLost = lost !== undefined;
    if (typeof found === 'string' || isLost)
      await this.#write(isGood ? scheme.only(booted) : scheme.trial(booted, 1), booted, isGood);
    else if (isGood)
      await this.#write(scheme.isWorn(found, booted) ? scheme.only(booted) : new Map(), booted, true);
    const isNew = found !== 'damaged' && remembered.slots.length === 0;
    return {
      ...(await this.read()),
      ...(isLost && !isNew && { lost: `${environment.name} was ${lost}` }),
    };
  }

  async read(): Promise<BootState> {
    const { bootedSlot, bootId = kernelBootId } = this.#options;
    const booted = await bootedSlot();
    const { scheme, environment } = this.#options;
    const found = await this.#read();
    const lost = this.#lossIn(found);
    const next = typeof found === 'string' ? undefined : scheme.next(found);
    const trials = typeof found === 'string' ? [] : trialsIn(found, scheme);
    return {
      booted,
      next: next ?? (await environment.readLastGood?.()) ?? booted,
      bootId: await bootId(),
      ...(trials[0] && { trial: trials[0] }),
      ...(lost !== undefined && { lost: `${environment.name} is ${lost}` }),
    };
  }

  /** What is wrong with the variables. */
  #lossIn(found: Variables | 'missing' | 'damaged'): string | undefined {
    if (typeof found === 'string') return found;
    return this.#options.scheme.next(found) === undefined ? "without the slots' variables" : undefined;
  }

  async markBad(slot: SlotName): Promise<void> {
    if ((await this.#options.bootedSlot()) === slot) throw refused(`slot ${slot} is the one that runs`);
    await this.#write(this.#options.scheme.without(slot), otherSlot(slot), true);
  }

  async setTrial(slot: SlotName, tries: number): Promise<void> {
    const { scheme } = this.#options;
    if (tries > scheme.maxTries) throw refused(`${tries} tries are more than ${scheme.maxTries}`);
    await this.#write(scheme.trial(slot, tries), otherSlot(slot), true);
  }

  async confirm(slot: SlotName): Promise<void> {
    if ((await this.#options.bootedSlot()) !== slot) throw refused(`slot ${slot} is not the one that runs`);
    await this.setNext(slot);
  }

  async setNext(slot: SlotName): Promise<void> {
    await this.#write(this.#options.scheme.only(slot), slot, true);
  }

  async reboot(): Promise<void> {
    await runReboot(this.#options, this.#options.rebootCommand);
  }

  async stop(): Promise<void> {
    // The boot loader counts boots, not starts of the agent.
  }

  #read(): Promise<Variables | 'missing' | 'damaged'> {
    const { environment, stop } = this.#options;
    return patiently(this.#options, () => environment.read(stop));
  }

  /** Writes, and reads back: some of these programs end with 0 although they have written nothing. */
  async #write(changes: Variables, slot: SlotName, isGood: boolean): Promise<void> {
    const { environment, stop } = this.#options;
    const good = isGood ? slot : otherSlot(slot);
    await patiently(this.#options, () =>
      withGrace(stop, async signal => {
        await environment.write(changes, good, signal);
        const found = await environment.read(signal);
        for (const [name, value] of changes) {
          const isThere = typeof found !== 'string' && found.get(name) === value;
          if (!isThere) throw notWritten(environment.name, name, value);
        }
      }),
    );
  }
}

const trialsIn = (variables: Variables, scheme: BootScheme): NonNullable<BootState['trial']>[] =>
  SLOT_NAMES.flatMap(slot => {
    const triesLeft = scheme.left(variables, slot);
    return triesLeft === undefined ? [] : [{ slot, triesLeft }];
  });

function notWritten(environment: string, name: string, value: string): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_BOOT_ENVIRONMENT_FAILED',
    `${environment}: ${name}=${value} was written, and isn't there`,
  );
}

function refused(why: string): SitecastError {
  return new SitecastError('failed', 'SITECAST_BOOT_REFUSED', `boot control refuses: ${why}`);
}
