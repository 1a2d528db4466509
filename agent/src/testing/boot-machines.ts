import { accessSync } from 'node:fs';
import { join } from 'node:path';
import { CommandBootControl } from '../adapters/command-boot.ts';
import { FileBootControl } from '../adapters/file-boot.ts';
import { runCommand } from '../adapters/run-command.ts';
import { systemClock } from '../adapters/system-clock.ts';
import type { BootControl, SlotName } from '../ports.ts';
import { BootProgram } from './boot-program.ts';

/**
 * A machine with one kind of boot loader, for tests: all that loader and boot control remember lies in one directory, so a copy of the
 * directory is another machine in the same state.
 */
export interface BootMachine {
  /** Makes a machine that runs slot A, which is good. */
  create(directory: string): Promise<void>;
  /** As the agent opens it, on a machine that runs that slot. */
  open(directory: string, booted: SlotName): BootControl;
  /** Power comes: the loader counts, chooses and starts a slot. */
  boot(directory: string): Promise<SlotName>;
}

const file: BootMachine = {
  create: async directory => {
    await open(directory).start();
  },
  open,
  // Here an agent that starts is what boots.
  boot: async directory => (await open(directory).start()).booted,
};
function open(directory: string): FileBootControl {
  return new FileBootControl(join(directory, 'boot.json'), { firstSlot: 'A', afterBoot: async () => {} });
}

const command: BootMachine = {
  create: async directory => {
    await BootProgram.create(directory);
  },
  open: directory => new CommandBootControl(BootProgram.at(directory).command, surroundings()),
  boot: async directory => {
    const program = BootProgram.at(directory);
    await program.boot();
    return (await program.get('booted')) === 'B' ? 'B' : 'A';
  },
};

function surroundings() {
  return { run: runCommand, clock: systemClock('auto'), log: () => {}, stop: new AbortController().signal };
}

export const BOOT_MACHINES = { file, command } as const;
export type BootMachineName = keyof typeof BOOT_MACHINES;

/** A change that the agent orders. */
export type BootChange = ['markBad' | 'confirm' | 'setNext', SlotName] | ['setTrial', SlotName, number];

export async function order(control: BootControl, [verb, slot, tries]: BootChange): Promise<void> {
  if (verb === 'setTrial') await control.setTrial(slot, tries ?? 1);
  else await control[verb](slot);
}

/** Says to whoever records this process's system calls how far it is. */
export function mark(name: string): void {
  try {
    accessSync(`/sitecast-mark/${name}`);
  } catch {
    // It isn't there: only the question counts.
  }
}
