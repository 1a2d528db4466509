import { randomBytes } from 'node:crypto';
import { basename, dirname } from 'node:path';
import { readCopy, readFileBounded, removePartials, setAside } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import {
  type BootControl,
  type BootState,
  type LoaderCapabilities,
  otherSlot,
  type RememberedBoot,
  type SlotName,
} from '../ports.ts';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';

const MAX_BOOT_BYTES = 16 * 1024;
/** Any number would work: the trial of a slot takes two. */
const MAX_TRIES = 100;
const slotName = z.enum(['A', 'B']);

const bootFileSchema = z.looseObject({
  format: z.literal('sitecast-boot-1'),
  booted: slotName,
  bootId: z.string().max(64),
  /** The slot that runs when there is no trial. */
  next: slotName,
  trial: z.looseObject({ slot: slotName, triesLeft: z.int().min(0) }).nullable(),
  bad: z.array(slotName),
  /** The agent was stopped properly, so its next start doesn't count as a boot. */
  isStopped: z.boolean(),
});
type BootFile = z.infer<typeof bootFileSchema>;

const NOTHING: RememberedBoot = { slots: [], onTrial: undefined };

/** Called after a boot: starts the payload in the slot that runs now. */
type AfterBoot = (booted: SlotName) => Promise<void>;

interface FileBootOptions {
  firstSlot: SlotName;
  afterBoot: AfterBoot;
  /** Default: files on disk. */
  files?: DurableFiles;
}

/**
 * Boot control for devices whose image is a program or a tree, not a system. It keeps one state file, and a "boot" means that the agent
 * restarts the payload. A start of the agent without a proper stop before it counts as a boot, too, because that is how a power cut looks.
 */
export class FileBootControl implements BootControl {
  readonly #path: string;
  readonly #options: FileBootOptions;
  /** The file's content. After the start only this process writes the file; a damaged file is replaced with the next change. */
  #state: BootFile | undefined;
  #lost: string | undefined;
  #isUp = false;

  constructor(path: string, options: FileBootOptions) {
    this.#path = path;
    this.#options = options;
  }

  /** Starts are counted before the payload runs, so hangs count as well. */
  async capabilities(): Promise<LoaderCapabilities> {
    return { maxTries: MAX_TRIES, countsHangs: true, isAtomic: true };
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
    if (tries > MAX_TRIES) throw refused(`${tries} tries are more than ${MAX_TRIES}`);
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
    // Before `start` nothing can be noted, as it isn't known yet whether the last run was stopped properly.
    if (this.#state) await this.#save({ ...this.#state, isStopped: true });
  }

  /** Counts the start once, unless the agent was stopped properly. */
  async #begin(remembered: RememberedBoot): Promise<BootFile> {
    await this.#removeLeft();
    const found = await this.#find(remembered);
    return this.#save(found.isStopped ? { ...found, isStopped: false } : booted(found));
  }

  /** What a killed agent had begun to write. With `--boot-file` it isn't in the agent's own directory. */
  async #removeLeft(): Promise<void> {
    const own = basename(this.#path);
    try {
      await removePartials(dirname(this.#path), name => name === own || name === `${own}.copy`);
    } catch (error) {
      // A medium that fails: they only take room.
      if (!isSystemError(error)) throw error;
    }
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
      // For example on a full disk. The file itself is written.
      if (!isSystemError(error)) throw error;
    });
    return state;
  }
}

/** @returns `damaged` also for a file that the medium can't read */
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
    // The file holds no boot state.
    return undefined;
  }
}

/**
 * The copy, if it still applies. A release that keeps no copies may have run since it was made, so it counts only for the trial that is
 * under way. The agent's state has everything else.
 */
function stillTrue(copy: BootFile, { slots, onTrial }: RememberedBoot): BootFile | undefined {
  // Without the agent's state, the copy counts; but a trial that may be over isn't begun again.
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

/** Acts like a boot loader: counts a try, and leaves a slot whose tries are used up. */
function booted(state: BootFile): BootFile {
  const base = { ...state, bootId: newBootId(), isStopped: false };
  const { trial } = state;
  if (!trial) return { ...base, booted: state.next };
  if (trial.triesLeft === 0) return { ...base, booted: state.next, trial: null };
  return { ...base, booted: trial.slot, trial: { ...trial, triesLeft: trial.triesLeft - 1 } };
}

function stateOf({ booted, next, trial, bootId }: BootFile): BootState {
  const { slot, triesLeft } = trial ?? { slot: next, triesLeft: 0 };
  return {
    booted,
    next: triesLeft > 0 ? slot : next,
    bootId,
    ...(trial && { trial: { slot, triesLeft } }),
  };
}

function refused(why: string): SitecastError {
  return new SitecastError('failed', 'SITECAST_BOOT_REFUSED', `boot control refuses: ${why}`);
}
