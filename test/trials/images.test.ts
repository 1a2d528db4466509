import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { LoopDevices, whyNoLoopDevices } from '@sitecast/agent/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { FleetTestbed } from '../src/testbed/fleet-testbed.ts';
import type { Server } from '../src/testbed/testbed.ts';
import { debianImages, IMAGE_FORMATS } from '../src/testbed/system-images.ts';

// Images that others make, published, installed and updated by the commands, and compared with the slot byte for byte.

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SITE = 'north';
/** Of a disk of today: no shorter piece can be written. */
const SECTOR_BYTES = 4096;
const ODD_LENGTHS = [1, 513, 4095, 3 * MIB + 1];

const statusReader = z.looseObject({ id: z.string().optional(), enrolment: z.string().optional() });
const memberReader = z.looseObject({
  reports: z.array(
    z.looseObject({
      report: z.looseObject({
        state: z.string(),
        reason: z.looseObject({ message: z.string() }).optional(),
      }),
    }),
  ),
});

let fleet: FleetTestbed;
/** Of the present test. */
const agents: Server[] = [];
const devices = new LoopDevices();
const whyNoLoop = whyNoLoopDevices();

beforeAll(async () => {
  fleet = await FleetTestbed.open([SITE]);
});
afterEach(async () => {
  for (const agent of agents.splice(0)) await agent.stop();
  devices.release();
});
afterAll(() => fleet.close());

/** An agent with slots of its own; its product is its name. */
class ImageDevice {
  readonly #name: string;
  readonly #slots: readonly string[];
  #published = 0;

  private constructor(name: string, slots: readonly string[]) {
    this.#name = name;
    this.#slots = slots;
  }

  /** @param slots paths; default: new files */
  static async start(name: string, slots?: readonly string[]): Promise<ImageDevice> {
    const own = slots ?? ['a', 'b'].map(slot => fleet.testbed.path(`${name}-${slot}.img`));
    const token = `${name}.token`;
    await writeFile(fleet.testbed.path(token), await fleet.joinToken('device', SITE, 1), { mode: 0o600 });
    const about = `run --data ${name} --gateway ${fleet.site(SITE).url} --token-file ${token} --product ${name} --hardware rpi4 --poll 1s --no-peers`;
    const paths = ['--boot', 'file', '--slot-a', own[0] ?? '', '--slot-b', own[1] ?? ''];
    agents.push(fleet.testbed.start('sitecast-agent', [...about.split(' '), ...paths]));
    return new ImageDevice(name, own);
  }

  /** Publishes the next release and orders it. @returns the rollout's id */
  async order(image: string): Promise<string> {
    this.#published += 1;
    const version = `${this.#published}.0.0`;
    const about = ['--product', this.#name, '--version', version, '--hardware', 'rpi4'];
    await fleet.operate('release', 'publish', image, ...about);
    const { id } = await fleet.operate(
      'rollout',
      'start',
      this.#name,
      version,
      '--all-at-once',
      '--soak',
      '0s',
    );
    return String(id);
  }

  /** Until it runs. @returns whether a slot holds the image then */
  async install(image: string): Promise<boolean> {
    const rollout = await this.order(image);
    await fleet.testbed.until(
      async () => (await fleet.status(rollout)).state === 'completed',
      `${this.#name} to install release ${this.#published}`,
    );
    return this.#slots.some(slot => isHeldBy(slot, image));
  }

  /** Why the update has failed, by the report that the operator sees. */
  async failure(): Promise<string | undefined> {
    let found: string | undefined;
    await fleet.testbed.until(async () => {
      const status = await readFile(fleet.testbed.path(this.#name, 'status.json'), 'utf8').catch(() => '{}');
      const { id, enrolment } = statusReader.parse(JSON.parse(status));
      if (id === undefined || enrolment !== 'enrolled') return false;
      const { reports } = memberReader.parse(await fleet.operate('device', 'show', id));
      found = reports.find(({ report }) => report.state === 'failed')?.report.reason?.message;
      return found !== undefined;
    }, `${this.#name} to refuse release ${this.#published}`);
    return found;
  }
}

/** By cmp(1), which knows neither our chunks nor our indexes. */
function isHeldBy(slot: string, image: string): boolean {
  try {
    const lengthBytes = execFileSync('stat', ['-c', '%s', image]).toString().trim();
    execFileSync('cmp', ['-s', '-n', lengthBytes, image, slot]);
    return true;
  } catch {
    return false;
  }
}

/** Two images of that length: the second one has a changed piece. */
async function imagesOf(name: string, lengthBytes: number): Promise<[string, string]> {
  const first = randomBytes(lengthBytes);
  const second = Buffer.from(first);
  const at = Math.floor(lengthBytes / 2);
  randomBytes(Math.min(1000, lengthBytes - at)).copy(second, at);
  second[0] = (second[0] ?? 0) ^ 1;
  const paths: [string, string] = [
    fleet.testbed.path(`${name}-1.image`),
    fleet.testbed.path(`${name}-2.image`),
  ];
  await writeFile(paths[0], first);
  await writeFile(paths[1], second);
  return paths;
}

function loopDevice(name: string, lengthBytes: number, sectorBytes: number): string {
  const backing = fleet.testbed.path(`${name}.backing`);
  execFileSync('truncate', ['-s', String(lengthBytes), backing]);
  return devices.attach(backing, '--sector-size', String(sectorBytes));
}

/** @param skip ends the test */
function debianImagesOr(
  format: (typeof IMAGE_FORMATS)[number],
  skip: (why: string) => never,
): [string, string] {
  try {
    return debianImages(format);
  } catch (error) {
    const why = `skipped: no Debian system can be made here (${String(error).slice(0, 300)})`;
    console.log(why);
    return skip(why);
  }
}

describe.each(IMAGE_FORMATS)('a Debian minimal system as %s', format => {
  it('is installed and updated, in files and in devices of 4 KiB sectors', async ({ skip }) => {
    const images = debianImagesOr(format, why => skip(why));
    const inFiles = await ImageDevice.start(`debian-${format}`);
    for (const image of images) expect(await inFiles.install(image)).toBe(true);
    if (whyNoLoop !== undefined) return;
    const { size } = await stat(images[0]);
    const roomy = Math.ceil((size + 64 * MIB) / SECTOR_BYTES) * SECTOR_BYTES;
    const slots = ['a', 'b'].map(slot => loopDevice(`loop-${format}-${slot}`, roomy, SECTOR_BYTES));
    const inDevices = await ImageDevice.start(`loop-${format}`, slots);
    for (const image of images) expect(await inDevices.install(image)).toBe(true);
  });
});

it('an image of more than 4 GiB with holes keeps them, in files', async () => {
  const lengthBytes = 4 * GIB + 300 * MIB + 12_345;
  const paths = [1, 2].map(version => fleet.testbed.path(`sparse-${version}.image`));
  const pieces = [0, 4 * GIB - 3 * MIB, lengthBytes - 2 * MIB].map(at => ({
    at,
    bytes: randomBytes(2 * MIB),
  }));
  // The second has another piece across the border of 4 GiB.
  for (const path of paths) {
    await writeFile(path, '');
    await truncate(path, lengthBytes);
    const image = await open(path, 'r+');
    for (const { at, bytes } of pieces) await image.write(bytes, 0, bytes.length, at);
    await image.close();
    pieces.push({ at: 4 * GIB - MIB, bytes: randomBytes(2 * MIB) });
  }
  const slots = ['a', 'b'].map(slot => fleet.testbed.path(`sparse-${slot}.img`));
  const device = await ImageDevice.start('sparse', slots);
  for (const path of paths) expect(await device.install(path)).toBe(true);
  for (const slot of slots) {
    const { size, blocks } = await stat(slot);
    expect(size).toBe(lengthBytes);
    expect(blocks * 512).toBeLessThan(64 * MIB);
  }
});

it.each(ODD_LENGTHS)('an image of %d bytes is installed and updated, in files', async lengthBytes => {
  const images = await imagesOf(`odd-${lengthBytes}`, lengthBytes);
  const slots = ['a', 'b'].map(slot => fleet.testbed.path(`odd-${lengthBytes}-${slot}.img`));
  const device = await ImageDevice.start(`odd-${lengthBytes}`, slots);
  for (const image of images) expect(await device.install(image)).toBe(true);
  for (const slot of slots) expect((await stat(slot)).size).toBe(lengthBytes);
});

describe.skipIf(whyNoLoop !== undefined)('a device of 4 KiB sectors', () => {
  it.each(ODD_LENGTHS)('holds an image of %d bytes', async lengthBytes => {
    const name = `sectors-${lengthBytes}`;
    const images = await imagesOf(name, lengthBytes);
    const slots = ['a', 'b'].map(slot => loopDevice(`${name}-${slot}`, 4 * MIB, SECTOR_BYTES));
    const device = await ImageDevice.start(name, slots);
    for (const image of images) expect(await device.install(image)).toBe(true);
  });

  it('that is full to its last sector with an image of no whole number of sectors', async () => {
    const lengthBytes = MIB - 1;
    const images = await imagesOf('last-sector', lengthBytes);
    const slots = ['a', 'b'].map(slot => loopDevice(`last-sector-${slot}`, MIB, SECTOR_BYTES));
    const device = await ImageDevice.start('last-sector', slots);
    for (const image of images) expect(await device.install(image)).toBe(true);
  });

  it.each([
    ['is a byte too small', MIB, SECTOR_BYTES, MIB + 1, MIB],
    // The kernel gives whole sectors of 512 bytes.
    ['of 512 byte sectors lies on an odd number of bytes', MIB + 1000, 512, MIB + 1000, MIB + 512],
  ])('that %s: the operator is told how many bytes it has', async (what, backing, sector, image, holds) => {
    const name = what.replaceAll(/[^a-z0-9]+/g, '-').slice(0, 30);
    const slots = ['a', 'b'].map(slot => loopDevice(`${name}-${slot}`, backing, sector));
    const [first] = await imagesOf(name, image);
    const device = await ImageDevice.start(name, slots);
    await device.order(first);
    expect(await device.failure()).toBe(`the slot ${slots[1]} holds ${holds} bytes, the image has ${image}`);
  });
});
