import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { type Server, Testbed } from '../../src/testbed/testbed.ts';

const HARDWARE = 'qemu';
/** How a guest reaches the host's loopback interface. */
const HOST_SEEN_BY_GUEST = '10.0.2.2';
const QUIET = ['--log-level', 'warn'];
const rolloutSchema = z.looseObject({ counts: z.record(z.string(), z.number()) });
type Rollout = z.infer<typeof rolloutSchema>;
const devicesSchema = z.looseObject({
  members: z.array(z.looseObject({ id: z.string(), product: z.string() })),
});
export type Device = z.infer<typeof devicesSchema>['members'][number];

/** An origin and a gateway on the host, as real processes. */
export class Site {
  readonly testbed: Testbed;
  readonly #origin: Server;
  readonly #gateway: Server;

  private constructor(testbed: Testbed, origin: Server, gateway: Server) {
    this.testbed = testbed;
    this.#origin = origin;
    this.#gateway = gateway;
  }

  static async open(): Promise<Site> {
    const testbed = await Testbed.open();
    const listen = ['--listen', '127.0.0.1:0', ...QUIET];
    const origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...listen]);
    await testbed.foundRepository(origin);
    const token = ['token', 'create', '--join', '--uses', '99', '--kind'];
    await testbed.json('sitecast', [...token, 'gateway', '--site', 'north', '--out', 'gateway.token']);
    await testbed.json('sitecast', [...token, 'device', '--site', 'north', '--out', 'device.token']);
    const about = `serve --origin ${origin.url} --data gateway --token-file gateway.token --peer-listen 127.0.0.1:0 --no-mdns`;
    const gateway = await testbed.serve('sitecast-gateway', [...about.split(' '), ...listen]);
    return new Site(testbed, origin, gateway);
  }

  async publish(product: string, version: string, image: string): Promise<void> {
    const about = ['--product', product, '--version', version, '--hardware', HARDWARE];
    await this.testbed.json('sitecast', ['release', 'publish', image, ...about]);
  }

  /** @returns the rollout's id */
  async rollOut(product: string, version: string): Promise<string> {
    const atOnce = ['--all-at-once', '--max-down', '100%', '--on-failure', 'pause', '--max-failures', '100%'];
    return z
      .string()
      .parse((await this.testbed.json('sitecast', ['rollout', 'start', product, version, ...atOnce])).id);
  }

  /** As the origin's API tells it. */
  async rollout(id: string): Promise<Rollout> {
    return rolloutSchema.parse(await this.#ask(`rollouts/${id}`));
  }

  /** The devices of a product, as the origin's API tells them. */
  async devicesOf(product: string): Promise<Device[]> {
    const { members } = devicesSchema.parse(await this.#ask('devices?limit=1000'));
    return members.filter(device => device.product === product);
  }

  /** The files on the data partition of a device that leaves its factory with release 1.0.0 of the product. */
  deviceFiles(product: string): Record<string, string | Uint8Array> {
    const settings = {
      data: '/data/agent',
      gateway: [this.#gateway.url.replace('127.0.0.1', HOST_SEEN_BY_GUEST)],
      'token-file': '/data/join.token',
      product,
      hardware: HARDWARE,
      'slot-a': '/dev/vda2',
      'slot-b': '/dev/vda3',
      boot: 'grub',
      'reboot-command': 'reboot -f',
      'factory-release': '1:1.0.0',
      watchdog: '/dev/watchdog',
      'health-check': ['gateway', 'memory=16MiB'],
      'time-sync': 'yes',
      poll: '2s',
      'no-peers': true,
      'log-format': 'text',
    };
    return {
      'agent.yaml': JSON.stringify(settings),
      'join.token': readFileSync(this.testbed.path('device.token')),
    };
  }

  close(): Promise<void> {
    return this.testbed.close();
  }

  async #ask(path: string): Promise<unknown> {
    const token = readFileSync(this.testbed.path('origin', 'admin.token'), 'utf8').trim();
    const answer = await fetch(`${this.#origin.url}/api/v1/${path}`, {
      headers: { authorization: `Bearer ${token}` },
    });
    return answer.json();
  }
}
