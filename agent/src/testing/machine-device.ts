import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { SlotName } from '../ports.ts';
import type { BootMachine, BootMachineName } from './boot-machines.ts';
import { TestDevice } from './device.ts';

/** Its waits are shorter by that factor. */
const HASTE = 20_000;

export interface MachineOptions {
  name: BootMachineName;
  machine: BootMachine;
  /** Its gateway's. */
  url: string;
  /** The health command. */
  health: string;
}

/** A device on a machine with a boot loader, in one directory: the agent's, the slots, and what the loader remembers. */
export class MachineDevice {
  readonly device: TestDevice;
  readonly #directory: string;
  readonly #options: MachineOptions;
  #boots = 0;

  constructor(directory: string, options: MachineOptions) {
    this.#directory = directory;
    this.#options = options;
    this.device = TestDevice.in(directory, [options.url]);
  }

  /** Makes the machine, which runs slot A. */
  static async create(directory: string, { name, machine }: MachineOptions): Promise<void> {
    mkdirSync(join(directory, 'boot'), { recursive: true });
    if (name !== 'file') await machine.create(join(directory, 'boot'));
  }

  /** Power comes: the loader starts a slot, and the agent starts there. @returns the slot */
  async boot(): Promise<SlotName> {
    const { name, machine, health } = this.#options;
    const options = { haste: HASTE, settings: { hooks: { health } } };
    if (name === 'file') {
      // Here the start of the agent is the boot.
      await this.device.open(options);
      return (await this.device.parts.boot.read()).booted;
    }
    const partition = join(this.#directory, 'boot');
    const booted = await machine.boot(partition);
    this.#boots += 1;
    // Another one than those before, whatever process booted the machine then.
    const bootId = `boot-${process.pid}-${this.#boots}`;
    await this.device.open({ ...options, boot: machine.open(partition, booted, bootId) });
    return booted;
  }

  /** @returns the state in which it leaves the device */
  async cycle(): Promise<string> {
    return (await this.device.cycle()).state;
  }

  async cutPower(): Promise<void> {
    await this.device.close({ isCut: true });
  }
}
