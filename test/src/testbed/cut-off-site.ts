import { execFileSync } from 'node:child_process';
import { Testbed, type Server } from './testbed.ts';

const HQ_ADDRESS = '10.97.0.1';
const SITE_ADDRESS = '10.97.0.2';
const FLEET_PORT = 7402;
/** A shaper's bucket and queue, which at these sizes add no time of their own. */
const SHAPER = ['burst', '16kb', 'latency', '100ms'];

/** How the gateway of the site learns of its neighbour. */
export type Way = 'named' | 'found';

const run = (program: string, ...args: readonly string[]): string =>
  execFileSync(program, args, { encoding: 'utf8' });
const ip = (...args: readonly string[]): string => run('ip', ...args);

/**
 * An origin and a gateway at one place; and a site whose only way out is that gateway's port in the fleet's network: real processes in network
 * namespaces (Linux, root, iproute2). The origin, and the gateway's HTTP, listen on addresses that the site can't reach.
 */
export class CutOffSite {
  readonly testbed: Testbed;
  readonly origin: Server;
  readonly #hq: string;
  readonly #site: string;
  #nearAddress = '';

  private constructor(testbed: Testbed, origin: Server, { hq, site }: { hq: string; site: string }) {
    this.testbed = testbed;
    this.origin = origin;
    this.#hq = hq;
    this.#site = site;
  }

  /** @param mbit of the line between the two, each way; undefined: as fast as it goes */
  static async open(mbit?: number): Promise<CutOffSite> {
    const spaces = { hq: `sc-cut-${process.pid}-hq`, site: `sc-cut-${process.pid}-site` };
    for (const space of Object.values(spaces)) {
      ip('netns', 'add', space);
      ip('-n', space, 'link', 'set', 'lo', 'up');
    }
    ip(
      'link',
      'add',
      'line',
      'netns',
      spaces.hq,
      'type',
      'veth',
      'peer',
      'name',
      'line',
      'netns',
      spaces.site,
    );
    for (const [space, address] of [
      [spaces.hq, HQ_ADDRESS],
      [spaces.site, SITE_ADDRESS],
    ] as const) {
      ip('-n', space, 'addr', 'add', `${address}/24`, 'dev', 'line');
      ip('-n', space, 'link', 'set', 'line', 'up');
      if (mbit === undefined) continue;
      const shaper = ['dev', 'line', 'root', 'tbf', 'rate', `${mbit}mbit`, ...SHAPER];
      run('tc', '-n', space, 'qdisc', 'add', ...shaper);
    }
    const testbed = await Testbed.open();
    const origin = await testbed.serve(
      'sitecast-origin',
      'serve --data origin --listen 127.0.0.1:0 --log-level error'.split(' '),
      { within: at(spaces.hq) },
    );
    const all = new CutOffSite(testbed, origin, spaces);
    for (const role of ['root', 'release']) await all.operate('keys', 'create', role, '--no-passphrase');
    await all.operate('init', '--origin', origin.url, '--token-file', 'origin/admin.token');
    await all.operate('keys', 'create', 'fleet');
    return all;
  }

  /** An operator's command, where the origin is. */
  operate(...args: string[]): Promise<Record<string, unknown>> {
    return this.testbed.json('sitecast', args, { within: at(this.#hq) });
  }

  /** What starts a program at the site, in front of it. */
  get atSite(): string[] {
    return at(this.#site);
  }

  /** The same, where the origin is. */
  get atOrigin(): string[] {
    return at(this.#hq);
  }

  /** The gateway beside the origin, which gives chunks to other sites. */
  async addNear(name: string): Promise<Server> {
    const listen = `--gossip-listen /ip4/${HQ_ADDRESS}/tcp/${FLEET_PORT} --fleet-upload 4GiB --no-prefetch`;
    const near = await this.#addGateway(name, { space: this.#hq, site: 'north', more: listen });
    const answer = ip('netns', 'exec', this.#hq, 'curl', '-s', `${near.url}/site/v1/gateway`);
    const { id }: { id: string } = JSON.parse(answer);
    this.#nearAddress = `/ip4/${HQ_ADDRESS}/tcp/${FLEET_PORT}/p2p/${id}`;
    return near;
  }

  /** The gateway of the site, once there is one beside the origin. */
  addFar(name: string, way: Way): Promise<Server> {
    const more =
      way === 'named'
        ? `--gossip-peer ${this.#nearAddress} --no-mdns`
        : `--gossip-listen /ip4/${SITE_ADDRESS}/tcp/${FLEET_PORT + 1}`;
    return this.#addGateway(name, { space: this.#site, site: 'south', more });
  }

  async close(): Promise<void> {
    await this.testbed.close();
    for (const space of [this.#hq, this.#site]) ip('netns', 'delete', space);
  }

  async #addGateway(
    name: string,
    { space, site, more }: { space: string; site: string; more: string },
  ): Promise<Server> {
    const kind = ['--join', '--kind', 'gateway', '--site', site, '--out', `${name}.token`];
    await this.operate('token', 'create', ...kind);
    const about = `serve --data ${name} --listen 127.0.0.1:0 --token-file ${name}.token --log-level error --no-peers`;
    const args = `${about} --fleet-key-file keys/fleet.key ${more}`.split(' ');
    return this.testbed.serve('sitecast-gateway', args, { within: at(space) });
  }
}

const at = (space: string): string[] => ['ip', 'netns', 'exec', space];
