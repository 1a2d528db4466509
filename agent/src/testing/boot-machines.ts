import { join } from 'node:path';
import { CommandBootControl } from '../adapters/command-boot.ts';
import {
  type BootEnvironment,
  type BootScheme,
  EnvironmentBootControl,
} from '../adapters/environment-boot.ts';
import { FileBootControl } from '../adapters/file-boot.ts';
import { GrubEnvironment, grubScheme } from '../adapters/grub-boot.ts';
import { runCommand } from '../adapters/run-command.ts';
import { systemClock } from '../adapters/system-clock.ts';
import { bootcountScheme, bootOrderScheme, UbootEnvironment } from '../adapters/uboot-boot.ts';
import type { BootControl, SlotName } from '../ports.ts';
import { BootProgram } from './boot-program.ts';
import { evaluateGrub } from './grub-machine.ts';
import {
  configIn,
  createUbootEnvironment,
  evaluateUboot,
  pointConfigAt,
  type UbootScript,
  whyNoUboot,
} from './uboot-machine.ts';

/**
 * A machine with one kind of boot loader, for tests: all that loader and boot control remember lies in one directory, so a copy of the
 * directory is another machine in the same state.
 */
export interface BootMachine {
  /** Makes a machine that runs slot A, which is good. */
  create(directory: string): Promise<void>;
  /** As the agent opens it, on a machine that runs that slot. @param bootId default: the one of this machine */
  open(directory: string, booted: SlotName, bootId?: string): BootControl;
  /** Power comes: the loader counts, chooses and starts a slot. */
  boot(directory: string): Promise<SlotName>;
  /** Why it can't be tried here. */
  whyNot?: () => string | undefined;
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

const grub: BootMachine = {
  create: async directory => {
    await environmentControl(
      directory,
      { booted: 'A' },
      {
        environment: grubEnvironment(directory),
        scheme: grubScheme,
      },
    ).start();
  },
  open: (directory, booted, bootId) =>
    environmentControl(
      directory,
      { booted, bootId },
      { environment: grubEnvironment(directory), scheme: grubScheme },
    ),
  boot: async directory => {
    const { slot, lines } = evaluateGrub(directory);
    if (slot === undefined) throw new Error(`GRUB starts nothing: ${lines.join('; ')}`);
    return slot;
  },
};
const grubEnvironment = (directory: string) => new GrubEnvironment(join(directory, 'grubenv'));

function uboot(script: UbootScript): BootMachine {
  const scheme = script === 'bootcount' ? bootcountScheme : bootOrderScheme;
  const openAt = (directory: string, booted: SlotName, bootId?: string) => {
    pointConfigAt(directory);
    const environment = new UbootEnvironment(configIn(directory), surroundings());
    return environmentControl(directory, { booted, bootId }, { environment, scheme });
  };
  return {
    create: async directory => {
      createUbootEnvironment(directory);
      await openAt(directory, 'A').start();
    },
    open: openAt,
    boot: async directory => {
      const { slot, lines } = evaluateUboot(directory, script);
      if (slot === undefined) throw new Error(`U-Boot starts nothing: ${lines.join('; ')}`);
      return slot;
    },
    whyNot: whyNoUboot,
  };
}

function environmentControl(
  directory: string,
  { booted, bootId }: { booted: SlotName; bootId?: string | undefined },
  loader: { environment: BootEnvironment; scheme: BootScheme },
): BootControl {
  const rebootCommand = `touch '${join(directory, 'rebooted')}'`;
  return new EnvironmentBootControl({
    ...surroundings(),
    ...loader,
    bootedSlot: async () => booted,
    ...(bootId !== undefined && { bootId: async () => bootId }),
    rebootCommand,
  });
}

export const BOOT_MACHINES = {
  file,
  command,
  grub,
  uboot: uboot('boot-order'),
  'uboot-bootcount': uboot('bootcount'),
} satisfies Record<string, BootMachine>;
export type BootMachineName = keyof typeof BOOT_MACHINES;

/** A change that the agent orders. */
export type BootChange = ['markBad' | 'confirm' | 'setNext', SlotName] | ['setTrial', SlotName, number];

export async function order(control: BootControl, [verb, slot, tries]: BootChange): Promise<void> {
  if (verb === 'setTrial') await control.setTrial(slot, tries ?? 1);
  else await control[verb](slot);
}
