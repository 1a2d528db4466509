import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { type Fate, LightDevice } from './light-device.ts';
import { Testbed, type Server } from './testbed.ts';
import { type Ask, SiteView } from './site-view.ts';

const FIRST = { counter: 1, version: '1.0.0' };

/** What a test changes about an origin's time. */
interface TimeChanges {
  /** Its clock is ahead by so much: deadlines pass while the test doesn't wait for them. */
  aheadMs: number;
  /** What it does once a minute it does as often as this; undefined: once a minute. */
  minuteMs?: number | undefined;
}

const changedTime = ({ aheadMs, minuteMs }: TimeChanges): Record<string, string> => {
  const clock = `const{now}=Date;Date.now=()=>now.call(Date)+${aheadMs};`;
  const timers = `const set=setTimeout;globalThis.setTimeout=(act,ms,...more)=>set(act,ms===60000?${minuteMs}:ms,...more);`;
  return {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(clock + (minuteMs === undefined ? '' : timers))}`,
  };
};

/** A site's gateway and what it shows; devices of the site ask it. */
export interface Site {
  name: string;
  gateway: Server;
  /** Where its devices ask: the gateway, unless a test puts something before it. */
  url: string;
  view: SiteView;
}

/** An origin, gateways at sites and light devices behind them. */
export class FleetTestbed {
  readonly testbed: Testbed;
  readonly sites: Site[] = [];
  readonly devices: LightDevice[] = [];
  #origin: Server;
  #aheadMs = 0;

  private constructor(testbed: Testbed, origin: Server) {
    this.testbed = testbed;
    this.#origin = origin;
  }

  /** @param origin what the origin is set to besides, as environment variables */
  static async open(
    sites: readonly string[],
    { origin = {} }: { origin?: Record<string, string> } = {},
  ): Promise<FleetTestbed> {
    const testbed = await Testbed.open();
    const fleet = new FleetTestbed(testbed, await startOrigin(testbed, '0', origin));
    await testbed.foundRepository(fleet.#origin);
    for (const name of sites) fleet.sites.push(await fleet.#openSite(name));
    return fleet;
  }

  async close(): Promise<void> {
    await this.testbed.close();
  }

  get originUrl(): string {
    return this.#origin.url;
  }

  operate(...args: string[]): Promise<Record<string, unknown>> {
    return this.testbed.json('sitecast', args);
  }

  /** What a rollout's status shows. */
  status(id: string): Promise<Record<string, unknown>> {
    return this.operate('rollout', 'status', id);
  }

  atOrigin: Ask = (path, init) => fetch(this.#origin.url + path, init);

  site(name: string): Site {
    const found = this.sites.find(site => site.name === name);
    if (!found) throw new Error(`there is no site ${name}`);
    return found;
  }

  /** Publishes 1.0.0, which devices come with, and 2.0.0. */
  async publish(product: string, hardware: readonly string[] = ['rpi4']): Promise<void> {
    for (const version of ['1.0.0', '2.0.0']) {
      const image = `${product}-${version}`;
      await writeFile(this.testbed.path(image), randomBytes(100_000));
      const boards = hardware.flatMap(name => ['--hardware', name]);
      await this.operate('release', 'publish', image, '--product', product, '--version', version, ...boards);
    }
  }

  async joinToken(kind: 'device' | 'gateway', site: string, uses = 100): Promise<string> {
    const out = `${kind}-${randomBytes(4).toString('hex')}.token`;
    const about = ['--kind', kind, '--site', site, '--uses', String(uses)];
    await this.operate('token', 'create', '--join', ...about, '--out', out);
    return (await readFile(this.testbed.path(out), 'utf8')).trim();
  }

  /** Lets devices in at a site, through its gateway. */
  async enrol(siteName: string, product: string, count: number, hardware = 'rpi4'): Promise<LightDevice[]> {
    const site = this.site(siteName);
    const token = await this.joinToken('device', siteName);
    const ask: Ask = (path, init) => fetch(site.url + path, init);
    const options = { ask, view: site.view, token, product, hardware, release: FIRST };
    const devices = await Promise.all(Array.from({ length: count }, () => LightDevice.enrol(options)));
    this.devices.push(...devices);
    return devices;
  }

  /** @returns its id, once every gateway has heard of it */
  async rollOut(product: string, ...args: string[]): Promise<string> {
    const { id } = await this.operate('rollout', 'start', product, '2.0.0', ...args);
    await this.untilSigned(product, String(id), 'active');
    return String(id);
  }

  /** Until every gateway serves the rollout in this state. */
  async untilSigned(product: string, id: string, state: string, sites = this.sites): Promise<void> {
    for (const { view } of sites)
      await this.testbed.until(async () => (await view.stateOf(product, id)) === state);
  }

  /** Each device looks once at what its gateway has. A site whose gateway is away is left out. */
  async turn(product: string, fate: (device: LightDevice) => Fate = () => 'well'): Promise<void> {
    for (const { name, view } of this.sites) {
      const files = await view.look(product).catch((error: unknown) => {
        if (isUnreachable(error)) return undefined;
        throw error;
      });
      if (!files) continue;
      const here = this.devices.filter(
        device => device.product === product && device.assignment.site === name,
      );
      await Promise.all(here.map(device => device.turn(files, fate(device))));
    }
  }

  /** Turns until something is true of the rollout's status. */
  async turnUntil(
    product: string,
    id: string,
    holds: (status: Record<string, unknown>) => boolean,
    fate?: (device: LightDevice) => Fate,
  ): Promise<Record<string, unknown>> {
    let status: Record<string, unknown> = {};
    await this.testbed.until(async () => {
      await this.turn(product, fate);
      status = await this.status(id);
      return holds(status);
    });
    return status;
  }

  /** Kills the origin and starts it again. Its clock is then later by `laterMs`; `minuteMs` makes its minutes shorter. */
  async restartOrigin(laterMs: number, { minuteMs }: { minuteMs?: number } = {}): Promise<void> {
    await this.#origin.stop('SIGKILL');
    this.#aheadMs += laterMs;
    const time = { aheadMs: this.#aheadMs, minuteMs };
    this.#origin = await startOrigin(this.testbed, portOf(this.#origin), changedTime(time));
  }

  async killGateway({ gateway }: Site): Promise<void> {
    await gateway.stop('SIGKILL');
  }

  /** @param build another than this checkout's: the directory of its bin stubs */
  async restartGateway(site: Site, build: { bin?: string } = {}): Promise<void> {
    site.gateway = await this.#startGateway(site.name, portOf(site.gateway), build);
  }

  async #openSite(name: string): Promise<Site> {
    await writeFile(this.testbed.path(`${name}.token`), await this.joinToken('gateway', name, 1), {
      mode: 0o600,
    });
    const gateway = await this.#startGateway(name, '0');
    await this.testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);
    const ask: Ask = (path, init) => fetch(gateway.url + path, init);
    return { name, gateway, url: gateway.url, view: await SiteView.open(ask) };
  }

  #startGateway(name: string, port: string, build: { bin?: string } = {}): Promise<Server> {
    const args = ['--data', `gateway-${name}`, '--token-file', `${name}.token`, '--poll', '1s'];
    return this.testbed.serve('sitecast-gateway', ['serve', ...args, '--no-peers', ...quiet(port)], build);
  }
}

const quiet = (port: string): string[] => ['--listen', `127.0.0.1:${port}`, '--log-level', 'error'];

function startOrigin(testbed: Testbed, port: string, env: Record<string, string>): Promise<Server> {
  return testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet(port)], { env });
}

const portOf = ({ url }: Server): string => new URL(url).port;

function isUnreachable(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof Error && error.cause instanceof TypeError);
}
