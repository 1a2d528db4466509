import { basename } from 'node:path';
import type { BootControl, Slot, SlotWriter, WindowApplier } from '../ports.ts';
import type { DurableFiles } from '../state/durable-files.ts';

/**
 * Only for tests: adapters that report each durable step and each patch, before and after it. A test ends the process there, or throws,
 * like a power cut. No other code of the agent knows of failpoints.
 */
export type Failpoint = (name: string) => void;

/** @param where the name of a failpoint, or `NAME#N` for the Nth time that it is reached */
export function killAt(where: string, kill: () => void): Failpoint {
  const [wanted, times = '1'] = where.split('#');
  let reached = 0;
  return name => {
    if (name !== wanted) return;
    reached += 1;
    if (reached === Number(times)) kill();
  };
}

/** Adds failpoints to adapters; without `reach` they stay as they are. */
export function failpoints(reach: Failpoint | undefined): {
  files: (files: DurableFiles) => DurableFiles;
  slot: (slot: Slot) => Slot;
  boot: (boot: BootControl) => BootControl;
  applier: (applier: WindowApplier) => WindowApplier;
} {
  if (!reach)
    return { files: files => files, slot: slot => slot, boot: boot => boot, applier: applier => applier };
  return {
    files: files => filesWithFailpoints(files, reach),
    slot: slot => slotWithFailpoints(slot, reach),
    boot: boot => bootWithFailpoints(boot, reach),
    applier: applier => applierWithFailpoints(applier, reach),
  };
}

function filesWithFailpoints(files: DurableFiles, reach: Failpoint): DurableFiles {
  const step = async (name: string, write: () => Promise<void>): Promise<void> => {
    reach(`${name} before`);
    await write();
    reach(`${name} after`);
  };
  return {
    replace: (path, ...content) => step(basename(path), () => files.replace(path, ...content)),
    replaceCopy: (path, content) => step(`${basename(path)}.copy`, () => files.replaceCopy(path, content)),
    openToAppend: path => files.openToAppend(path),
    append: (handle, content, name) => step(name, () => files.append(handle, content, name)),
  };
}

function slotWithFailpoints(slot: Slot, reach: Failpoint): Slot {
  return {
    path: slot.path,
    locate: remembered => slot.locate(remembered),
    look: (...how) => slot.look(...how),
    capacityBytes: () => slot.capacityBytes(),
    openForReading: () => slot.openForReading(),
    openForReadBack: () => slot.openForReadBack(),
    openForWriting: async () => writerWithFailpoints(await slot.openForWriting(), reach),
  };
}

function writerWithFailpoints(writer: SlotWriter, reach: Failpoint): SlotWriter {
  return {
    extend: lengthBytes => writer.extend(lengthBytes),
    write: async (bytes, offset) => {
      reach('chunk before');
      await writer.write(bytes, offset);
      reach('chunk after');
    },
    finish: async lengthBytes => {
      reach('slot sync before');
      await writer.finish(lengthBytes);
      reach('slot sync after');
    },
    close: () => writer.close(),
  };
}

function applierWithFailpoints(applier: WindowApplier, reach: Failpoint): WindowApplier {
  return {
    encoders: applier.encoders,
    baseMemory: lengthBytes => applier.baseMemory(lengthBytes),
    patchMemory: lengthBytes => applier.patchMemory(lengthBytes),
    apply: async request => {
      reach('patch before');
      const made = await applier.apply(request);
      reach('patch after');
      return made;
    },
    close: () => applier.close(),
  };
}

function bootWithFailpoints(boot: BootControl, reach: Failpoint): BootControl {
  const step = async (name: string, change: () => Promise<void>): Promise<void> => {
    reach(`${name} before`);
    await change();
    reach(`${name} after`);
  };
  return {
    capabilities: () => boot.capabilities(),
    start: remembered => boot.start(remembered),
    read: () => boot.read(),
    markBad: slot => step('mark bad', () => boot.markBad(slot)),
    setTrial: (slot, tries) => step('set trial', () => boot.setTrial(slot, tries)),
    confirm: slot => step('confirm', () => boot.confirm(slot)),
    setNext: slot => step('set next', () => boot.setNext(slot)),
    reboot: () => step('reboot', () => boot.reboot()),
    stop: () => boot.stop(),
  };
}
