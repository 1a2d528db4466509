import { randomBytes } from 'node:crypto';
import { readCopy, readFileBounded, setAside } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { type BootControl, type BootState, otherSlot, type RememberedBoot, type SlotName } from '../ports.ts';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';

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

const NOTHING: RememberedBoot = { slots: [], onTrial: undefined };

/** What follows a boot: the payload is started anew from the slot that runs now. */
type AfterBoot = (booted: SlotName) => Promise<void>;

interface FileBootOptions {
  firstSlot: SlotName;
  afterBoot: AfterBoot;
  /** Default: those of the disk. */
  files?: DurableFiles;
}

/**
 * Boot control for devices whose image is a program or a tree rather than a system: one state file, and a "boot" is
 * a restart of the payload by the agent. An agent that starts without having stopped is taken for a boot, too: that's
 * how a power cut looks from here.
 */
export class FileBootControl implements BootControl {
  readonly #path: string;
  readonly #options: FileBootOptions;
  /** As the file has it: after a start nobody else writes there, and a damaged file is written anew with the next change. */
  #state: BootFile | undefined;
  #lost: string | undefined;
  #isUp = false;

  constructor(path: string, options: FileBootOptions) {
    this.#path = path;
    this.#options = options;
  }

  async start(remembered: RememberedBoot = NOTHING): Promise<BootState> {
    const state = this.#state ?? (await this.#begin(remembered));
    if (!this.#isUp) await this.#options.afterBoot(state.booted);
    this.#isUp = true;
    return { ...stateOf(state), ...(this.#lost === undefined ? {} : { lost: this.#lost }) };
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
    await this.#options.afterBoot(next.booted);
  }

  async stop(): Promise<void> {
    // Before it has begun there's nothing to note: whether the last run had stopped by itself is still to be found out.
    if (this.#state) await this.#save({ ...this.#state, isStopped: true });
  }

  /** Counts the start, once, unless the agent had stopped by itself. */
  async #begin(remembered: RememberedBoot): Promise<BootFile> {
    const found = await this.#find(remembered);
    return this.#save(found.isStopped ? { ...found, isStopped: false } : booted(found));
  }

  async #load(): Promise<BootFile> {
    return this.#state ?? this.#find(NOTHING);
  }

  async #find(remembered: RememberedBoot): Promise<BootFile> {
    const found = await readBootFile(this.#path);
    if (typeof found === 'object') return found;
    const copy = await readBootCopy(this.#path);
    const isNew = found === 'missing' && remembered.slots.length === 0 && copy === undefined;
    if (isNew) return firstState(this.#options.firstSlot);
    this.#lost = `${this.#path} was ${found}`;
    if (found === 'damaged') await setAside(this.#path);
    return (
      (copy && stillTrue(copy, remembered)) ?? firstState(remembered.slots[0] ?? this.#options.firstSlot)
    );
  }

  async #save(state: BootFile): Promise<BootFile> {
    const { files = durableFiles } = this.#options;
    const text = `${JSON.stringify(state, null, 1)}\n`;
    await files.replace(this.#path, text, 0o600);
    this.#state = state;
    await files.replaceCopy(this.#path, text).catch((error: unknown) => {
      // On a full disk, say. The file itself is written.
      if (!isSystemError(error)) throw error;
    });
    return state;
  }
}

/** @returns `damaged` too for one that the medium doesn't give back */
async function readBootFile(path: string): Promise<BootFile | 'missing' | 'damaged'> {
  let bytes: Buffer;
  try {
    bytes = await readFileBounded(path, MAX_BOOT_BYTES);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return 'missing';
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return 'damaged';
    throw error;
  }
  return parseBootFile(bytes) ?? 'damaged';
}

async function readBootCopy(path: string): Promise<BootFile | undefined> {
  const bytes = await readCopy(path, MAX_BOOT_BYTES);
  return bytes && parseBootFile(bytes);
}

function parseBootFile(bytes: Buffer): BootFile | undefined {
  try {
    return bootFileSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    // Whatever it is, it's no boot state.
    return undefined;
  }
}

/**
 * What counts of a copy. A release that knows no copies may have run since it was made, so it's believed to be of now only where
 * it tells of the trial that is under way; all else that matters, the agent remembers itself.
 */
function stillTrue(copy: BootFile, { slots, onTrial }: RememberedBoot): BootFile | undefined {
  // With nothing to compare it with, it's the best there is: but no trial that may be over is begun again.
  if (slots.length === 0) return { ...copy, trial: null, isStopped: copy.isStopped && !copy.trial };
  const isOfTrial = copy.trial !== null && copy.trial.slot === onTrial && slots.includes(copy.booted);
  return isOfTrial ? copy : undefined;
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
