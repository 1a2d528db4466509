import { randomBytes } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { ChunkIndex } from '@sitecast/shared/content';
import { z } from 'zod';
import { Filter, type Ruling } from './filter.ts';
import { FleetTestbed } from './fleet-testbed.ts';
import type { Server } from './testbed.ts';

const PRODUCT = 'camera';
export const SITE = 'north';
const REGION_BYTES = 512 * 1024;
/** Of each region so much is rebuilt: a run of changed chunks, which is one window. */
const REBUILT_BYTES = 384 * 1024;
/** Of each block in there the first half is new: no chunk stays the same, and a patch is half as long as the chunks. */
const BLOCK_BYTES = 8192;
const CHUNK_SIZES = '8:32:64';
const CHUNK = /^\/chunks\/.*\/([0-9a-f]{64})\.cacnk$/;

/** Where another build than this checkout's runs: the directory of its bin stubs. */
export type Build = { bin?: string };

const statusSchema = z.looseObject({
  pid: z.number(),
  id: z.string(),
  state: z.string(),
  heard: z.looseObject({ url: z.string() }).optional(),
  peers: z.looseObject({ known: z.number(), dropped: z.number().optional() }).optional(),
});

/** One product whose releases each are the one before, rebuilt: chunks alone save a quarter, a delta more than half. */
export class DeltaFleet {
  readonly fleet: FleetTestbed;
  readonly #images: Buffer[];

  private constructor(fleet: FleetTestbed, first: Buffer) {
    this.fleet = fleet;
    this.#images = [first];
  }

  /**
   * @param regions of the image; each is a window of its deltas
   * @param origin what the origin is set to besides, as environment variables
   */
  static async open(regions: number, origin: Record<string, string> = {}): Promise<DeltaFleet> {
    const fleet = await FleetTestbed.open([SITE], { origin });
    const opened = new DeltaFleet(fleet, randomBytes(regions * REGION_BYTES));
    await opened.publish(1);
    return opened;
  }

  /** Of release NUMBER.0.0. */
  imageOf(number: number): Buffer {
    const known = this.#images[number - 1];
    if (known) return known;
    const next = Buffer.from(this.imageOf(number - 1));
    for (let region = 0; region < next.length; region += REGION_BYTES)
      for (let at = region; at < region + REBUILT_BYTES; at += BLOCK_BYTES)
        randomBytes(BLOCK_BYTES / 2).copy(next, at);
    this.#images[number - 1] = next;
    return next;
  }

  /** Which release an image is; undefined: none. */
  numberOf(image: Buffer): number | undefined {
    const at = this.#images.findIndex(known => known.equals(image));
    return at === -1 ? undefined : at + 1;
  }

  /** Publishes the release, with a delta from an earlier one (the one before); returns once it is there. */
  async publishWithDelta(number: number, from = number - 1): Promise<void> {
    const version = await this.publish(number);
    await this.fleet.operate('release', 'deltas', PRODUCT, version, '--from', `${from}.0.0`);
    await this.fleet.testbed.until(async () => {
      const { deltas } = await this.fleet.operate('release', 'deltas', PRODUCT, version);
      return Array.isArray(deltas) && deltas.at(-1)?.state === 'published';
    }, `the delta to ${version}`);
  }

  /** @param flags besides @returns the id of the rollout to all devices */
  async start(number: number, ...flags: string[]): Promise<string> {
    const whole = ['--all-at-once', '--soak', '0s', '--max-down', '100%', ...flags];
    const { id } = await this.fleet.operate('rollout', 'start', PRODUCT, `${number}.0.0`, ...whole);
    return String(id);
  }

  async untilCompleted(rollout: string): Promise<void> {
    await this.fleet.testbed.until(
      async () => (await this.fleet.status(rollout)).state === 'completed',
      'the rollout to complete',
    );
  }

  async rollOut(number: number): Promise<void> {
    await this.untilCompleted(await this.start(number));
  }

  async device(name: string, ...flags: string[]): Promise<DeltaDevice> {
    const token = await this.fleet.joinToken('device', SITE, 1);
    await writeFile(this.fleet.testbed.path(`${name}.token`), token, { mode: 0o600 });
    return DeltaDevice.open(this, name, flags);
  }

  get originUrl(): string {
    return this.fleet.originUrl;
  }

  async indexOf(number: number): Promise<ChunkIndex> {
    return ChunkIndex.decode(await readFile(await this.indexPath(number)));
  }

  /** In hex. */
  async chunkIdsOf(number: number): Promise<Set<string>> {
    const index = await this.indexOf(number);
    return new Set(
      Array.from({ length: index.count }, (_, at) => Buffer.from(index.idAt(at)).toString('hex')),
    );
  }

  /** The chunk index of a release, as the origin publishes it: a path. */
  async indexPath(number: number): Promise<string> {
    const folder = this.fleet.testbed.path('origin', 'repository', 'targets', 'releases');
    const found = (await readdir(folder)).find(file => file.endsWith(`.${PRODUCT}-${number}.caibx`));
    return `${folder}/${found}`;
  }

  close(): Promise<void> {
    return this.fleet.close();
  }

  /** Without a delta. @returns its version */
  async publish(number: number): Promise<string> {
    const version = `${number}.0.0`;
    const image = `image-${version}`;
    await writeFile(this.fleet.testbed.path(image), this.imageOf(number));
    const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
    await this.fleet.operate('release', 'publish', image, ...about, '--chunk-size', CHUNK_SIZES);
    return version;
  }
}

/** A real agent of any build, behind a filter of its own that notes what it asks for. */
export class DeltaDevice {
  readonly name: string;
  readonly #fleet: DeltaFleet;
  readonly #flags: readonly string[];
  readonly #filter: Filter;
  /** Paths, since `forget`. */
  asked: string[] = [];
  /** Holds requests up, or refuses them; after they are noted. */
  rule: Ruling = () => 'pass';
  #agent: Server | undefined;

  private constructor(
    fleet: DeltaFleet,
    name: string,
    { flags, filter }: { flags: readonly string[]; filter: Filter },
  ) {
    this.#fleet = fleet;
    this.name = name;
    this.#flags = flags;
    this.#filter = filter;
    filter.rule = request => {
      this.asked.push(request.path);
      return this.rule(request);
    };
  }

  static async open(fleet: DeltaFleet, name: string, flags: readonly string[]): Promise<DeltaDevice> {
    const filter = await Filter.open(fleet.fleet.site(SITE).url);
    const device = new DeltaDevice(fleet, name, { flags, filter });
    for (const slot of ['a', 'b']) await writeFile(device.path(`${slot}.img`), '');
    return device;
  }

  /** Starts the agent, of this checkout where no other build is named. @param more flags for this start */
  start(build: Build = {}, more: readonly string[] = []): void {
    const about = `run --data ${this.name} --gateway ${this.#filter.url} --token-file ${this.name}.token --product ${PRODUCT} --hardware rpi4`;
    const slots = `--slot-a ${this.path('a.img')} --slot-b ${this.path('b.img')} --poll 1s --log-level info --no-mdns --health-command true`;
    const flags = [...about.split(' '), ...slots.split(' '), ...this.#flags, ...more];
    this.#agent = this.#fleet.fleet.testbed.start('sitecast-agent', flags, build);
  }

  async stop(signal?: NodeJS.Signals): Promise<void> {
    await this.#agent?.stop(signal);
  }

  /** What the agent has logged since its start. */
  get log(): string {
    return this.#agent?.output ?? '';
  }

  path(name: string): string {
    return this.#fleet.fleet.testbed.path(`${this.name}-${name}`);
  }

  /** Lines of warnings and errors that it has logged since its start. */
  get complaints(): string[] {
    return this.log.split('\n').filter(line => /"level":(?:"(?:warn|error|fatal)"|[456]0)/.test(line));
  }

  /** Ids of the chunks that it has asked its gateway for, as often as it has. */
  get chunks(): string[] {
    return this.asked.flatMap(path => CHUNK.exec(path)?.[1] ?? []);
  }

  forget(): void {
    this.asked = [];
  }

  /** What it last wrote down; undefined before that. */
  async status(): Promise<z.infer<typeof statusSchema> | undefined> {
    const text = await readFile(this.#fleet.fleet.testbed.path(this.name, 'status.json'), 'utf8').catch(
      () => '',
    );
    return text === '' ? undefined : statusSchema.parse(JSON.parse(text));
  }

  /** Names of files in a folder of the agent's own directory. */
  async files(folder: string): Promise<string[]> {
    return readdir(this.#fleet.fleet.testbed.path(this.name, folder)).catch(() => []);
  }

  /** The device as the operator sees it, with its reports, in JSON. */
  async shown(): Promise<string> {
    const { id = '' } = (await this.status()) ?? {};
    return JSON.stringify(await this.#fleet.fleet.operate('device', 'show', id));
  }

  async holds(number: number): Promise<boolean> {
    const image = this.#fleet.imageOf(number);
    for (const slot of ['a.img', 'b.img']) if (image.equals(await readFile(this.path(slot)))) return true;
    return false;
  }

  close(): void {
    this.#filter.close();
  }
}
