import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { evaluateGrub } from '@sitecast/agent/testing';
import { Disk } from './disk.ts';
import { Machine, type MachineOptions } from './machine.ts';
import { makeLogDirectory } from './needs.ts';
import { type Device, Site } from './site.ts';
import { type Behaviour, SlotImages } from './slot-images.ts';

export const OLD = '1.0.0';
export const NEXT = '2.0.0';

/** A site on the host, and what machines are made of. One machine runs at a time. */
export class BootTestbed {
  readonly site: Site;
  /** Consoles; they are kept. */
  readonly #logs: string;
  readonly #images: SlotImages;
  readonly #runtime: string;
  readonly #made = new Map<string, string>();
  readonly #hashes = new Map<string, string>();

  private constructor(site: Site, logs: string) {
    this.site = site;
    this.#logs = logs;
    this.#images = new SlotImages(site.testbed.path());
    this.#runtime = this.#images.makeRuntime();
  }

  static async open(): Promise<BootTestbed> {
    const logs = makeLogDirectory();
    process.stderr.write(`The consoles of the machines are kept in ${logs}\n`);
    return new BootTestbed(await Site.open(), logs);
  }

  /** Publishes release 1.0.0, which works, and 2.0.0, which behaves as told, and rolls that out. */
  async publish(product: string, behaviour: Behaviour): Promise<string> {
    await this.site.publish(product, OLD, this.image(OLD, 'good'));
    await this.site.publish(product, NEXT, this.image(NEXT, behaviour));
    return this.site.rollOut(product, NEXT);
  }

  /** A device that leaves its factory with release 1.0.0 in slot A. */
  makeDevice(product: string, rollout: string, name = product): BootDevice {
    const disk = Disk.make(
      this.site.testbed.path(`${name}.disk`),
      this.image(OLD, 'good'),
      this.site.deviceFiles(product),
    );
    const hardware = { disk, runtime: this.#runtime, log: join(this.#logs, `${name}.log`) };
    return new BootDevice(this, hardware, { product, rollout });
  }

  image(version: string, behaviour: Behaviour): string {
    const key = `${version} ${behaviour}`;
    const path = this.#made.get(key) ?? this.#images.make(version, behaviour);
    this.#made.set(key, path);
    this.#hashes.set(createHash('sha256').update(readFileSync(path)).digest('hex'), key);
    return path;
  }

  /** @returns which image has this hash, such as `1.0.0 good` */
  imageWith(sha256: string): string | undefined {
    return this.#hashes.get(sha256);
  }

  close(): Promise<void> {
    return this.site.close();
  }
}

interface NextBoot {
  slot: 'A' | 'B' | undefined;
  /** The image in that slot, such as `1.0.0 good`; undefined: no whole one. */
  holds: string | undefined;
  /** What has said so. */
  by: 'grubenv' | 'grubenv.confirmed';
}

/** One device: a disk, and the machine that runs from it while the power is on. */
export class BootDevice {
  readonly disk: Disk;
  readonly #testbed: BootTestbed;
  readonly #hardware: MachineOptions;
  readonly #order: { product: string; rollout: string };
  #machine: Machine | undefined;
  #runs = 0;

  constructor(testbed: BootTestbed, hardware: MachineOptions, order: { product: string; rollout: string }) {
    this.disk = hardware.disk;
    this.#testbed = testbed;
    this.#hardware = hardware;
    this.#order = order;
  }

  get machine(): Machine {
    if (!this.#machine) throw new Error('the power is off');
    return this.#machine;
  }

  /** @param writeLog a file in which QEMU notes each write and flush (`blklogwrites`) */
  powerOn(writeLog?: string): Machine {
    this.#runs += 1;
    const log = this.#hardware.log.replace(/\.log$/, `-${this.#runs}.log`);
    this.#machine = new Machine({ ...this.#hardware, log, ...(writeLog === undefined ? {} : { writeLog }) });
    return this.#machine;
  }

  async cutPower(): Promise<void> {
    await this.#machine?.cut();
  }

  /** Waits until the origin's API tells a state of the rollout for so many devices. */
  async reports(state: string, devices = 1): Promise<void> {
    await this.machine.until(`the report ${state}`, async () => {
      const { counts } = await this.#testbed.site.rollout(this.#order.rollout);
      return counts[state] === devices;
    });
  }

  /** As the origin's API tells it. */
  async told(): Promise<Device | undefined> {
    return (await this.#testbed.site.devicesOf(this.#order.product)).at(0);
  }

  /** What GRUB starts next, judged on the disk. */
  next(): NextBoot {
    const directory = mkdtempSync(join(tmpdir(), 'sitecast-boot-'));
    try {
      this.disk.readEnvironments(directory);
      const { slot, lines } = evaluateGrub(directory);
      const by = lines.some(line => line.includes('(as noted)')) ? 'grubenv' : 'grubenv.confirmed';
      return { slot, holds: slot && this.#testbed.imageWith(this.disk.hashOf(slot)), by };
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  async remove(): Promise<void> {
    await this.cutPower();
    this.disk.remove();
  }
}
