import { randomBytes } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { Testbed, type Server } from './testbed.ts';
import { SlowLink } from './slow-link.ts';

const MIB = 2 ** 20;
const PRODUCT = 'camera';
const QUIET = ['--log-level', 'error'];
const BLOCK_BYTES = 4096;
const SLOTS = ['a', 'b'] as const;
const statusSchema = z.looseObject({
  id: z.string(),
  pid: z.number(),
  state: z.string(),
  enrolment: z.string(),
  waitingFor: z.string().optional(),
  peers: z
    .looseObject({ receivedBytes: z.number(), sentBytes: z.number(), dropped: z.number().default(0) })
    .optional(),
});
type AgentStatus = z.infer<typeof statusSchema>;
const countsSchema = z.looseObject({ counts: z.record(z.string(), z.number()) });

export const IMAGE_BYTES = 2 * MIB;
/** Small, for many of them in a small image. */
const CHUNK_SIZES = '4:16:64';
/** Of a gateway's link to its devices, unless a test says otherwise. */
const LAN_BYTES_PER_S = MIB;
export const THREE = ['one', 'two', 'three'] as const;

/** Devices that are slow because the machine is are none that hang. */
const FOR_A_BUSY_MACHINE = { SITECAST_TEST_PATIENCE: '100' };

interface Release {
  version: string;
  image: Buffer;
  index: Buffer;
}

interface SwarmTestbedOptions {
  gateways?: number;
  /** Of each gateway's link to its devices. */
  lanBytesPerS: number;
}

/** Which build of a command runs: this checkout's where there is no `bin`. */
interface Build {
  bin?: string;
}

/** One gateway of the site, behind a link to the devices and one to the origin. */
export class SiteGateway {
  readonly name: string;
  readonly lan: SlowLink;
  readonly wan: SlowLink;
  readonly #testbed: Testbed;
  #server: Server;

  private constructor(
    name: string,
    testbed: Testbed,
    links: { lan: SlowLink; wan: SlowLink },
    server: Server,
  ) {
    this.name = name;
    this.#testbed = testbed;
    this.lan = links.lan;
    this.wan = links.wan;
    this.#server = server;
  }

  static async start(
    testbed: Testbed,
    name: string,
    origin: string,
    options: SwarmTestbedOptions,
  ): Promise<SiteGateway> {
    const wan = await SlowLink.open(origin, Number.POSITIVE_INFINITY);
    const server = await serve(testbed, name, wan, '0');
    const lan = await SlowLink.open(server.url, options.lanBytesPerS);
    return new SiteGateway(name, testbed, { lan, wan }, server);
  }

  get url(): string {
    return this.#server.url;
  }

  get pid(): number {
    return this.#server.pid;
  }

  /** Without a farewell. */
  kill(): Promise<unknown> {
    return this.#server.stop('SIGKILL');
  }

  /** Where it was before. @param isEmpty with a new disk; @param prefetch fetches ahead */
  async restart({
    isEmpty = false,
    prefetch = false,
    ...build
  }: Build & { isEmpty?: boolean; prefetch?: boolean } = {}): Promise<void> {
    if (isEmpty) await rm(this.#testbed.path(this.name), { recursive: true });
    const { port } = new URL(this.#server.url);
    this.#server = await serve(this.#testbed, this.name, this.wan, port, { prefetch, ...build });
  }

  /** Chunks that it has found somewhere since its start. */
  async found(where: 'upstream' | 'siteDevice'): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const line = `sitecast_chunks_found_total{where="${where}"} `;
    const found = text.split('\n').find(one => one.startsWith(line));
    return Number(found?.slice(line.length) ?? 0);
  }

  close(): void {
    this.lan.close();
    this.wan.close();
  }
}

function serve(
  testbed: Testbed,
  name: string,
  wan: SlowLink,
  port: string,
  { prefetch = false, ...build }: Build & { prefetch?: boolean } = {},
): Promise<Server> {
  const about = `serve --origin ${wan.url} --data ${name} --token-file gateway.token --listen 127.0.0.1:${port}`;
  const peers = ['--peer-listen', '127.0.0.1:0', '--no-mdns'];
  const ahead = prefetch ? [] : ['--no-prefetch'];
  const args = [...about.split(' '), ...peers, ...ahead, ...QUIET];
  return testbed.serve('sitecast-gateway', args, { env: FOR_A_BUSY_MACHINE, ...build });
}

/** An origin, and a site whose gateways and devices are real processes; each gateway's links can be thin, or cut. */
export class SwarmTestbed {
  readonly testbed: Testbed;
  readonly gateways: readonly SiteGateway[];
  readonly #agents = new Map<string, Server>();
  readonly #options = new Map<string, readonly string[]>();
  readonly #builds = new Map<string, Build>();
  #releases = 0;
  #rollout: string | undefined;

  readonly #origin: { url: string; token: string };

  private constructor(
    testbed: Testbed,
    gateways: readonly SiteGateway[],
    origin: { url: string; token: string },
  ) {
    this.testbed = testbed;
    this.#origin = origin;
    this.gateways = gateways;
  }

  static async open(options: SwarmTestbedOptions): Promise<SwarmTestbed> {
    const testbed = await Testbed.open();
    const listen = ['--listen', '127.0.0.1:0', ...QUIET];
    const origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...listen]);
    const operate = (...args: string[]) => testbed.json('sitecast', args);
    for (const role of ['root', 'release']) await operate('keys', 'create', role, '--no-passphrase');
    await operate('init', '--origin', origin.url, '--token-file', 'origin/admin.token');
    const token = ['token', 'create', '--join', '--uses', '99', '--kind'];
    await operate(...token, 'gateway', '--site', 'north', '--out', 'gateway.token');
    await operate(...token, 'device', '--out', 'device.token');
    const gateways: SiteGateway[] = [];
    for (let at = 0; at < (options.gateways ?? 1); at += 1)
      gateways.push(await SiteGateway.start(testbed, `gateway-${at}`, origin.url, options));
    const adminToken = (await readFile(testbed.path('origin', 'admin.token'), 'utf8')).trim();
    return new SwarmTestbed(testbed, gateways, { url: origin.url, token: adminToken });
  }

  /** A site of three devices. @param more of each device's options */
  static async openWithThree(
    more: (name: string, site: SwarmTestbed) => readonly string[] = () => [],
    options: Partial<SwarmTestbedOptions> = {},
  ): Promise<SwarmTestbed> {
    const site = await SwarmTestbed.open({ lanBytesPerS: LAN_BYTES_PER_S, ...options });
    await Promise.all(THREE.map(name => site.startDevice(name, ...more(name, site))));
    return site;
  }

  /** The first gateway; most sites have one. */
  get gateway(): SiteGateway {
    const [first] = this.gateways;
    if (!first) throw new Error('a site without a gateway');
    return first;
  }

  operate(...args: string[]): Promise<Record<string, unknown>> {
    return this.testbed.json('sitecast', args);
  }

  async publish(version: string, lengthBytes: number, ...more: string[]): Promise<Buffer> {
    const bytes = randomBytes(lengthBytes);
    await writeFile(this.testbed.path(version), bytes);
    const about = ['--product', PRODUCT, '--version', version, '--hardware', 'rpi4'];
    await this.operate('release', 'publish', version, ...about, ...more);
    return bytes;
  }

  /** Publishes another release. Its image is random, so no machine holds a chunk of it. */
  async release(): Promise<Release> {
    this.#releases += 1;
    const version = `${this.#releases}.0.0`;
    const image = await this.publish(version, IMAGE_BYTES, '--chunk-size', CHUNK_SIZES);
    const folder = this.testbed.path('origin', 'repository', 'targets', 'releases');
    const found = (await readdir(folder)).find(name => name.endsWith(`.${PRODUCT}-${this.#releases}.caibx`));
    return { version, image, index: await readFile(join(folder, found ?? '')) };
  }

  /** To all devices at once; what was rolled out before is called off. @returns the rollout's id */
  async rollOut(version: string, ...more: string[]): Promise<string> {
    if (this.#rollout) await this.operate('rollout', 'abort', this.#rollout, '--yes');
    const atOnce = ['--all-at-once', '--max-down', '100%', ...more];
    const { id } = await this.operate('rollout', 'start', PRODUCT, version, ...atOnce);
    this.#rollout = String(id);
    return this.#rollout;
  }

  /** The device's agent is of this build from its next start on. */
  setBuild(name: string, build: Build): void {
    this.#builds.set(name, build);
  }

  /** An agent, enrolled. A second time, with the same slots, data and options. @returns its id */
  async startDevice(name: string, ...more: string[]): Promise<string> {
    const options = this.#options.get(name) ?? more;
    this.#options.set(name, options);
    for (const slot of SLOTS) await writeFile(this.testbed.path(`${name}-${slot}.img`), '', { flag: 'a' });
    const flags = `run --data ${name} --token-file device.token --product ${PRODUCT} --hardware rpi4 --slot-a ${name}-a.img --slot-b ${name}-b.img --poll 1s --log-level warn --no-mdns`;
    const listen = options.includes('--peer-listen') ? [] : ['--peer-listen', '127.0.0.1:0'];
    const gateways = this.gateways.flatMap(({ lan }) => ['--gateway', lan.url]);
    const all = [...flags.split(' '), ...listen, ...gateways, ...options];
    this.#agents.set(name, this.testbed.start('sitecast-agent', all, this.#builds.get(name)));
    let status: AgentStatus | undefined;
    await this.testbed.until(async () => {
      status = await this.statusOf(name);
      return status?.enrolment === 'enrolled' && status.pid === this.pidOf(name);
    }, `${name} to be enrolled`);
    return status?.id ?? '';
  }

  /** Links as they were at first, and every device that a test has stopped. */
  async restore(): Promise<void> {
    for (const { lan, wan } of this.gateways) {
      lan.mend();
      wan.mend();
      lan.pace(LAN_BYTES_PER_S);
      wan.pace(Number.POSITIVE_INFINITY);
    }
    for (const name of THREE) if (!this.#agents.has(name)) await this.startDevice(name);
  }

  async killDevice(name: string): Promise<void> {
    await this.#agents.get(name)?.stop('SIGKILL');
    this.#agents.delete(name);
  }

  pidOf(name: string): number {
    const agent = this.#agents.get(name);
    if (!agent) throw new Error(`no agent runs as ${name}`);
    return agent.pid;
  }

  /** What the agent last wrote down of itself: to ask the command each time would take the machine from the devices. */
  async statusOf(name: string): Promise<AgentStatus | undefined> {
    try {
      return statusSchema.parse(JSON.parse(await readFile(this.testbed.path(name, 'status.json'), 'utf8')));
    } catch {
      // It has only just begun.
      return undefined;
    }
  }

  async isRight(name: string, image: Buffer): Promise<boolean> {
    return (await this.#slotsOf(name)).some(slot => slot.equals(image));
  }

  /** Until so many devices report that they're done. */
  async untilCompleted(rollout: string, devices: number): Promise<void> {
    await this.testbed.until(async () => {
      const answer = await fetch(`${this.#origin.url}/api/v1/rollouts/${rollout}`, {
        headers: { authorization: `Bearer ${this.#origin.token}` },
      });
      const { counts } = countsSchema.parse(await answer.json());
      return counts.completed === devices;
    }, `${devices} devices to complete`);
  }

  /** Until these devices hold so much of an image, counted together: what two hold counts once. */
  async untilSiteHas(image: Buffer, lengthBytes: number, ...names: string[]): Promise<void> {
    await this.testbed.until(
      async () => {
        const slots = await Promise.all(names.map(name => this.#slotsOf(name)));
        return bytesHeld(slots.flat(), image) >= lengthBytes;
      },
      `${lengthBytes} bytes at ${names.join(', ')}`,
    );
  }

  async close(): Promise<void> {
    for (const gateway of this.gateways) gateway.close();
    await this.testbed.close();
  }

  #slotsOf(name: string): Promise<Buffer[]> {
    return Promise.all(SLOTS.map(slot => readFile(this.testbed.path(`${name}-${slot}.img`))));
  }
}

/** How much of an image these slots hold, counted in blocks: what two of them hold counts once. */
export function bytesHeld(slots: readonly Buffer[], image: Buffer): number {
  let held = 0;
  for (let at = 0; at < image.length; at += BLOCK_BYTES) {
    const block = image.subarray(at, at + BLOCK_BYTES);
    if (slots.some(slot => slot.subarray(at, at + block.length).equals(block))) held += block.length;
  }
  return held;
}
