import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Bed, type Server } from './processes.ts';
import { SlowLink } from './slow-link.ts';

const PRODUCT = 'camera';
const counts = z.object({ counts: z.record(z.string(), z.number()) });
const peersStatus = z.object({ id: z.string(), state: z.string(), enrolment: z.string() });

/** A site with its own origin: a gateway behind a thin link of its own, and devices that are real agents. */
export class SwarmBed {
  readonly bed: Bed;
  readonly origin: Server;
  gateway: Server;
  /** Between the devices and the gateway. */
  readonly link: SlowLink;
  readonly #agents = new Map<string, Server>();

  private constructor(bed: Bed, parts: { origin: Server; gateway: Server; link: SlowLink }) {
    this.bed = bed;
    this.origin = parts.origin;
    this.gateway = parts.gateway;
    this.link = parts.link;
  }

  /** @param bytesPerS of the gateway's link to its devices */
  static async open(bytesPerS: number): Promise<SwarmBed> {
    const bed = await Bed.open();
    const quiet = ['--listen', '127.0.0.1:0', '--log-level', 'error'];
    const origin = await bed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet]);
    const operate = (...args: string[]) => bed.json('sitecast', args);
    for (const role of ['root', 'release']) await operate('keys', 'create', role, '--no-passphrase');
    await operate('init', '--origin', origin.url, '--token-file', 'origin/admin.token');
    await operate('token', 'create', '--join', '--kind', 'gateway', '--site', 'north', '--out', 'gw.token');
    await operate('token', 'create', '--join', '--kind', 'device', '--uses', '99', '--out', 'device.token');
    const start = ['serve', '--data', 'gw', '--token-file', 'gw.token', ...quiet];
    const gateway = await bed.serve('sitecast-gateway', start);
    const link = await SlowLink.open(gateway.url, bytesPerS);
    return new SwarmBed(bed, { origin, gateway, link });
  }

  operate(...args: string[]): Promise<Record<string, unknown>> {
    return this.bed.json('sitecast', args);
  }

  async publish(version: string, lengthBytes: number): Promise<Buffer> {
    const bytes = randomBytes(lengthBytes);
    await writeFile(this.bed.path(version), bytes);
    const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
    await this.operate('release', 'publish', version, ...about);
    return bytes;
  }

  async rollOut(version: string): Promise<string> {
    const { id } = await this.operate('rollout', 'start', PRODUCT, version, '--all-at-once', '--max-down', '100%');
    return String(id);
  }

  /** An agent that is enrolled, and knows the repository; nothing was rolled out yet, say. */
  async startDevice(name: string, ...more: string[]): Promise<Server> {
    for (const slot of ['a', 'b']) await writeFile(this.bed.path(`${name}-${slot}.img`), '', { flag: 'a' });
    const agent = this.bed.start('sitecast-agent', [
      ...`run --data ${name} --gateway ${this.link.url} --token-file device.token --product ${PRODUCT} --hardware rpi4 --slot-a ${name}-a.img --slot-b ${name}-b.img --poll 1s --log-level warn --peer-listen 127.0.0.1:0 --no-mdns`.split(
        ' ',
      ),
      ...more,
    ]);
    this.#agents.set(name, agent);
    await this.bed.until(async () => (await this.statusOf(name))?.enrolment === 'enrolled');
    return agent;
  }

  async statusOf(name: string): Promise<z.infer<typeof peersStatus> | undefined> {
    const { exitCode, stdout } = await this.bed.run('sitecast-agent', ['status', '--data', name, '--json']);
    return exitCode === 0 ? peersStatus.parse(JSON.parse(stdout)) : undefined;
  }

  /** What an agent has printed. */
  outputOf(name: string): string {
    return this.#agents.get(name)?.output ?? '';
  }

  slot(name: string, letter: 'a' | 'b'): Promise<Buffer> {
    return readFile(this.bed.path(`${name}-${letter}.img`));
  }

  /** Until so many devices report that a rollout is done. */
  async untilCompleted(rollout: string, devices: number): Promise<void> {
    await this.bed.until(async () => {
      const found = counts.parse(await this.operate('rollout', 'status', rollout));
      return found.counts.completed === devices;
    });
  }

  /** Until so many of the image's bytes are in a device's slot. */
  async untilHas(name: string, letter: 'a' | 'b', image: Buffer, lengthBytes: number): Promise<void> {
    await this.bed.until(async () => (await rightBytes(await this.slot(name, letter), image)) >= lengthBytes);
  }

  async close(): Promise<void> {
    this.link.close();
    await this.bed.close();
    await sleep(0);
  }
}

const BLOCK_BYTES = 4096;

async function rightBytes(slot: Buffer, image: Buffer): Promise<number> {
  let right = 0;
  for (let at = 0; at < image.length; at += BLOCK_BYTES) {
    const block = image.subarray(at, at + BLOCK_BYTES);
    if (slot.subarray(at, at + block.length).equals(block)) right += block.length;
  }
  return right;
}
