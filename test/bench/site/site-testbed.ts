import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Testbed, type Server } from '../../src/testbed/testbed.ts';
import { gatewayAddress, type Host, numbered, ORIGIN_ADDRESS, type SiteNet } from './net.ts';

/** Many processes start at the same time on few cores. */
const START_TIMEOUT_MS = 180_000;
/** How long idle agents need to announce themselves and to learn of each other. */
const SETTLE_MS = 3000;
const HOUR_MS = 3_600_000;
const PRODUCT = 'bench';
const HARDWARE = 'bench';
/** A device that only brings the image to the gateway. */
const WARMER = 'warmer';
const FAST_WAN_MBIT = 1000;
/** All devices write a base at the same time, on few cores. */
const BASE_TIMEOUT_MS = 1_800_000;
/** Making a delta of a large image takes minutes. */
const DELTA_TIMEOUT_MS = 3_600_000;

/** Flags of all scenarios. No polling interval matters: idle gateways and devices wait at their upstream (long poll). */
const QUIET = ['--log-level', 'error'];
const GATEWAY_FLAGS: readonly string[] = [];
const AGENT_FLAGS = ['--start-jitter', '0s', '--health-command', 'true'];

const status = z.looseObject({
  enrolment: z.string(),
  state: z.string(),
  booted: z.string().optional(),
  slots: z.record(z.string(), z.looseObject({ release: z.looseObject({ counter: z.number() }).nullish() })),
});
const deltasSchema = z.looseObject({ deltas: z.array(z.looseObject({ state: z.string() })) });

export interface SiteOptions {
  devices: number;
  gateways: number;
  wanMbit: number;
  image: string;
  /** Whether gateways have the image before it is rolled out. */
  isWarm: boolean;
  scratch: string;
  /** More flags of the agents. */
  agentFlags: readonly string[];
  /** Images that devices run before, in turn: there are deltas from each to the image. None: their slots are empty. */
  bases?: readonly string[];
}

/** A real site in a network: an origin with a release, gateways, and enrolled, idle agents. */
export class SiteTestbed {
  readonly testbed: Testbed;
  #origin: Server | undefined;
  readonly gateways: Server[] = [];
  readonly agents: Server[] = [];
  readonly #net: SiteNet;
  readonly #options: SiteOptions;

  private constructor(testbed: Testbed, net: SiteNet, options: SiteOptions) {
    this.testbed = testbed;
    this.#net = net;
    this.#options = options;
  }

  static async open(net: SiteNet, options: SiteOptions): Promise<SiteTestbed> {
    const site = new SiteTestbed(await Testbed.open(options.scratch), net, options);
    try {
      await site.#start();
      return site;
    } catch (error) {
      await site.close();
      throw error;
    }
  }

  /** With bases it logs each request, in JSON. */
  get origin(): Server {
    if (!this.#origin) throw new Error('the origin has not started');
    return this.#origin;
  }

  /** Data directories of the agents. */
  get agentDirectories(): string[] {
    return this.#devices.map(name => this.testbed.path(name));
  }

  /** Paths of the slots that get the image. */
  get slots(): string[] {
    const slot = this.#bases.length > 0 ? 'a' : 'b';
    return this.#devices.map(name => this.testbed.path(`${name}-${slot}.img`));
  }

  /** Counter of the image's release. The bases have the counters from 1 on. */
  get counter(): number {
    return this.#bases.length + 1;
  }

  /**
   * Lets every device fetch the image at once, but not boot it: so all of them stay up and serve what they have, and nothing else takes the
   * machine's time.
   */
  async rollOut(): Promise<void> {
    const notBefore = new Date(Date.now() + HOUR_MS).toISOString();
    await this.#startRollout(this.#boards, this.counter, '--not-before', notBefore);
  }

  /** Devices whose slot doesn't hold the image. */
  async wrongSlots(): Promise<string[]> {
    const wanted = sha256(await readFile(this.#options.image));
    const wrong: string[] = [];
    for (const slot of this.slots) if (sha256(await readFile(slot)) !== wanted) wrong.push(slot);
    return wrong;
  }

  close(): Promise<void> {
    return this.testbed.close();
  }

  get #bases(): readonly string[] {
    return this.#options.bases ?? [];
  }

  /** One hardware name for each base, so that each has devices of its own. */
  get #boards(): string[] {
    return this.#bases.length > 0 ? this.#bases.map((_, at) => `${HARDWARE}-${at + 1}`) : [HARDWARE];
  }

  #boardOf(device: number): string {
    return this.#boards[device % this.#boards.length] ?? HARDWARE;
  }

  get #devices(): Host[] {
    return numbered('d', this.#options.devices);
  }

  async #start(): Promise<void> {
    const origin = `${ORIGIN_ADDRESS}:7400`;
    const listen = ['--listen', origin, '--behind-tls-proxy'];
    const log = this.#bases.length > 0 ? ['--log-level', 'debug', '--log-format', 'json'] : QUIET;
    const args = ['serve', '--data', 'origin', ...listen, ...log];
    this.#origin = await this.testbed.serve('sitecast-origin', args, { within: this.#net.at('o') });
    for (const role of ['root', 'release']) await this.#operate('keys', 'create', role, '--no-passphrase');
    await this.#operate('init', '--origin', `http://${origin}`, '--token-file', 'origin/admin.token');
    for (const [at, base] of this.#bases.entries()) await this.#publish(base, at + 1, this.#boards);
    await this.#publish(this.#options.image, this.counter, [...this.#boards, WARMER]);
    await this.#joinToken('gateway', ['--site', 'here', '--uses', '9'], 'gateway.token');
    await this.#joinToken('device', ['--product', PRODUCT, '--uses', '99'], 'device.token');
    for (const host of numbered('g', this.#options.gateways)) await this.#startGateway(host);
    if (this.#options.isWarm) await this.#warm();
    for (const host of this.#devices) await this.#startAgent(host);
    for (const agent of this.agentDirectories) await this.#untilIdle(agent);
    if (this.#bases.length > 0) await this.#installBases();
    await sleep(SETTLE_MS);
  }

  async #publish(image: string, counter: number, boards: readonly string[]): Promise<void> {
    const hardware = boards.flatMap(board => ['--hardware', board]);
    const about = ['--product', PRODUCT, '--version', String(counter), ...hardware];
    await this.#operate('release', 'publish', image, ...about);
  }

  /** Installs bases over a WAN that is fast meanwhile. The deltas are made meanwhile, too. */
  async #installBases(): Promise<void> {
    this.#net.shapeWan(FAST_WAN_MBIT);
    for (const [at, board] of this.#boards.entries()) {
      await this.#operate('release', 'deltas', PRODUCT, String(this.counter), '--from', String(at + 1));
      await this.#startRollout([board], at + 1);
    }
    for (const [at, agent] of this.agentDirectories.entries())
      await this.#untilRuns(agent, 1 + (at % this.#bases.length));
    await this.#untilDeltas();
    this.#net.shapeWan(this.#options.wanMbit);
  }

  async #untilDeltas(): Promise<void> {
    const endMs = performance.now() + DELTA_TIMEOUT_MS;
    for (;;) {
      const answer = await this.#operate('release', 'deltas', PRODUCT, String(this.counter));
      const states = deltasSchema.parse(answer).deltas.map(({ state }) => state);
      if (states.every(state => state === 'published')) return;
      if (performance.now() > endMs || states.includes('failed') || states.includes('notWorth'))
        throw new Error(`the deltas aren't made: ${states.join(', ')}`);
      await sleep(1000);
    }
  }

  async #untilRuns(agent: string, counter: number): Promise<void> {
    const endMs = performance.now() + BASE_TIMEOUT_MS;
    for (;;) {
      const { state, booted, slots } = status.parse(JSON.parse(readFileSync(`${agent}/status.json`, 'utf8')));
      const runs = booted === undefined ? undefined : slots[booted]?.release?.counter;
      if (runs === counter && (state === 'completed' || state === 'idle')) return;
      if (performance.now() > endMs) throw new Error(`${agent} never ran release ${counter}: ${state}`);
      await sleep(200);
    }
  }

  async #startGateway(host: Host): Promise<void> {
    const listen = `${gatewayAddress(Number(host.slice(1)))}:7401`;
    const args = ['serve', '--data', host, '--token-file', 'gateway.token', '--listen', listen];
    const within = this.#net.at(host);
    const gateway = await this.testbed.serve('sitecast-gateway', [...args, ...GATEWAY_FLAGS, ...QUIET], {
      within,
    });
    this.gateways.push(gateway);
    await this.testbed.until(async () => {
      const answer = this.#net.run(
        host,
        'curl',
        '-s',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        `${gateway.url}/readyz`,
      );
      return answer === '200';
    });
  }

  /** Half of the devices prefer one gateway, half the other. */
  #flagsOf(name: string, hardware: string, at: number): string[] {
    const urls = this.gateways.map(({ url }) => url);
    const preferred = [...urls.slice(at % urls.length), ...urls.slice(0, at % urls.length)];
    const text = `--data ${name} --token-file device.token --product ${PRODUCT} --hardware ${hardware}`;
    const slots = `--slot-a ${name}-a.img --slot-b ${name}-b.img`;
    const own = [...text.split(' '), ...slots.split(' '), ...preferred.flatMap(url => ['--gateway', url])];
    return [...own, ...AGENT_FLAGS, ...QUIET];
  }

  async #startAgent(host: Host): Promise<void> {
    await this.#makeSlots(host);
    const args = [
      'run',
      ...this.#flagsOf(host, this.#boardOf(Number(host.slice(1)) - 1), Number(host.slice(1))),
      ...this.#options.agentFlags,
    ];
    this.agents.push(this.testbed.start('sitecast-agent', args, { within: this.#net.at(host) }));
  }

  async #makeSlots(name: string): Promise<void> {
    for (const slot of ['a', 'b']) await writeFile(this.testbed.path(`${name}-${slot}.img`), '');
  }

  /** A device beside the gateway fetches the image over a WAN that is fast meanwhile, and is then removed. */
  async #warm(): Promise<void> {
    this.#net.shapeWan(FAST_WAN_MBIT);
    // The origin hasn't heard of that device yet.
    await this.#startRollout([WARMER], this.counter, '--allow-unknown');
    await this.#makeSlots(WARMER);
    const args = ['update', ...this.#flagsOf(WARMER, WARMER, 0), '--no-peers'];
    const within = { within: this.#net.at('g1') };
    // Until its gateway has the order, it has nothing to do.
    await this.testbed.until(
      async () => (await this.testbed.json('sitecast-agent', args, within)).state === 'completed',
      'the gateway to have the image',
    );
    this.#net.shapeWan(this.#options.wanMbit);
  }

  async #startRollout(boards: readonly string[], counter: number, ...more: string[]): Promise<void> {
    const hardware = boards.flatMap(board => ['--hardware', board]);
    const whole = [...hardware, '--all-at-once', '--max-down', '100%'];
    await this.#operate('rollout', 'start', PRODUCT, String(counter), ...whole, ...more);
  }

  async #joinToken(kind: string, about: readonly string[], out: string): Promise<void> {
    await this.#operate('token', 'create', '--join', '--kind', kind, ...about, '--out', out);
  }

  #operate(...args: string[]): Promise<Record<string, unknown>> {
    return this.testbed.json('sitecast', args, { within: this.#net.at('o') });
  }

  async #untilIdle(agent: string): Promise<void> {
    const endMs = performance.now() + START_TIMEOUT_MS;
    const file = `${agent}/status.json`;
    for (;;) {
      if (existsSync(file)) {
        const { enrolment, state } = status.parse(JSON.parse(readFileSync(file, 'utf8')));
        if (enrolment === 'enrolled' && state === 'idle') return;
      }
      if (performance.now() > endMs)
        throw new Error(`${agent} was never idle: ${this.agents.map(({ output }) => output).join('')}`);
      await sleep(100);
    }
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
