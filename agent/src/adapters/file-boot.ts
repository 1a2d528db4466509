import { randomBytes } from 'node:crypto';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { type BootControl, type BootState, otherSlot, type PassPoint, type SlotName } from '../ports.ts';

const MAX_BOOT_BYTES = 16 * 1024;
const slotName = z.enum(['A', 'B']);

const bootFileSchema = z.looseObject({
  format: z.literal('sitecast-boot-1'),
  booted: slotName,
  bootId: z.string().max(64),
  /** What runs when there's no trial. */
  next: slotName,
  trial: z.looseObject({ slot: slotName, triesLeft: z.int().min(0) }).nullable(),
  bad: z.array(slotName),
  /** The agent stopped by itself: its next start isn't a boot. */
  isStopped: z.boolean(),
});
type BootFile = z.infer<typeof bootFileSchema>;

/** What follows a boot: the payload is started anew from the slot that runs now. */
export type AfterBoot = (booted: SlotName) => Promise<void>;

/**
 * Boot control for devices whose image is a program or a tree rather than a system: one state file, and a "boot" is
 * a restart of the payload by the agent. An agent that starts without having stopped is taken for a boot, too: that's
 * how a power cut looks from here.
 */
export class FileBootControl implements BootControl {
  readonly #path: string;
  readonly #firstSlot: SlotName;
  readonly #afterBoot: AfterBoot;
  readonly #passPoint: PassPoint;

  constructor(path: string, options: { firstSlot: SlotName; afterBoot: AfterBoot; passPoint: PassPoint }) {
    this.#path = path;
    this.#firstSlot = options.firstSlot;
    this.#afterBoot = options.afterBoot;
    this.#passPoint = options.passPoint;
  }

  async start(): Promise<BootState> {
    const found = await this.#load();
    const started = found.isStopped ? { ...found, isStopped: false } : booted(found);
    await this.#save(started);
    await this.#afterBoot(started.booted);
    return stateOf(started);
  }

  async read(): Promise<BootState> {
    return stateOf(await this.#load());
  }

  async markBad(slot: SlotName): Promise<void> {
    const found = await this.#load();
    if (found.booted === slot) throw refused(`slot ${slot} is the one that runs`);
    const trial = found.trial?.slot === slot ? null : found.trial;
    await this.#save({ ...found, trial, next: otherSlot(slot), bad: [...new Set([...found.bad, slot])] });
  }

  async setTrial(slot: SlotName, tries: number): Promise<void> {
    const found = await this.#load();
    await this.#save({
      ...found,
      next: otherSlot(slot),
      trial: { slot, triesLeft: tries },
      bad: found.bad.filter(name => name !== slot),
    });
  }

  async confirm(slot: SlotName): Promise<void> {
    const found = await this.#load();
    if (found.booted !== slot) throw refused(`slot ${slot} is not the one that runs`);
    await this.#save({ ...found, next: slot, trial: null, bad: found.bad.filter(name => name !== slot) });
  }

  async setNext(slot: SlotName): Promise<void> {
    const found = await this.#load();
    await this.#save({ ...found, next: slot, trial: null });
  }

  async reboot(): Promise<void> {
    const next = booted(await this.#load());
    await this.#save(next);
    await this.#afterBoot(next.booted);
  }

  async stop(): Promise<void> {
    await this.#save({ ...(await this.#load()), isStopped: true });
  }

  async #load(): Promise<BootFile> {
    let text: string;
    try {
      text = (await readFileBounded(this.#path, MAX_BOOT_BYTES)).toString('utf8');
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return firstState(this.#firstSlot);
      throw error;
    }
    try {
      return bootFileSchema.parse(JSON.parse(text));
    } catch (cause) {
      throw new SitecastError('failed', 'SITECAST_BOOT_STATE_INVALID', `${this.#path} is no boot state`, {
        hint: 'restore it; or delete it, if slot A is to run',
        cause,
      });
    }
  }

  async #save(state: BootFile): Promise<void> {
    this.#passPoint('boot before');
    await writeFileDurably(this.#path, `${JSON.stringify(state, null, 1)}\n`, 0o600);
    this.#passPoint('boot after');
  }
}

const newBootId = (): string => randomBytes(8).toString('hex');

function firstState(slot: SlotName): BootFile {
  return {
    format: 'sitecast-boot-1',
    booted: slot,
    bootId: newBootId(),
    next: slot,
    trial: null,
    bad: [],
    isStopped: true,
  };
}

/** What a boot loader does: count a try down, and leave a slot whose tries are used up. */
function booted(state: BootFile): BootFile {
  const base = { ...state, bootId: newBootId(), isStopped: false };
  const { trial } = state;
  if (!trial) return { ...base, booted: state.next };
  if (trial.triesLeft === 0) return { ...base, booted: state.next, trial: null };
  return { ...base, booted: trial.slot, trial: { ...trial, triesLeft: trial.triesLeft - 1 } };
}

function stateOf({ booted, next, trial, bootId }: BootFile): BootState {
  return { booted, next: trial && trial.triesLeft > 0 ? trial.slot : next, bootId };
}

function refused(why: string): SitecastError {
  return new SitecastError('failed', 'SITECAST_BOOT_REFUSED', `boot control refuses: ${why}`);
}
