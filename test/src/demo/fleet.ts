import { truncate, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { Testbed, Server } from '../testbed/testbed.ts';

export const SITES = ['north', 'south'] as const;
export type Site = (typeof SITES)[number];
export const DEVICES_PER_SITE = 3;
export const PRODUCT = 'camera';
const HARDWARE = 'demo-board';
const SLOT_BYTES = 32 * 1024 * 1024;

// The slot's file is the program itself: it must start, and say that it is what the release says it is.
const HEALTH_COMMAND =
  'chmod +x "$SITECAST_SLOT" && test "$("$SITECAST_SLOT" --version)" = "$SITECAST_RELEASE"';

export interface DemoDevice {
  name: string;
  site: Site;
}

const statusSchema = z.looseObject({
  id: z.string(),
  name: z.string().optional(),
  state: z.string(),
  booted: z.enum(['A', 'B']).optional(),
  slots: z.record(
    z.enum(['A', 'B']),
    z.looseObject({ state: z.string(), release: z.looseObject({ version: z.string() }).optional() }),
  ),
  barred: z.array(z.unknown()),
});
export type AgentStatus = z.infer<typeof statusSchema>;

const rolloutSchema = z.looseObject({
  id: z.string(),
  state: z.string(),
  counts: z.record(z.string(), z.number()),
  total: z.number(),
});
export type RolloutStatus = z.infer<typeof rolloutSchema>;

/** The processes of the demo and what an operator does with them, by way of the real commands. */
export class DemoFleet {
  readonly testbed: Testbed;
  readonly devices: DemoDevice[] = [];
  readonly #gateways = new Map<Site, Server>();
  #origin: Server | undefined;

  constructor(testbed: Testbed) {
    this.testbed = testbed;
  }

  get originUrl(): string {
    return this.#origin?.url ?? '';
  }

  async startOrigin(): Promise<void> {
    this.#origin = await this.testbed.serve('sitecast-origin', [
      'serve',
      '--data',
      'origin',
      '--listen',
      '127.0.0.1:0',
    ]);
  }

  found(): Promise<void> {
    return this.testbed.foundRepository({ url: this.originUrl });
  }

  operator(...args: string[]): Promise<Record<string, unknown>> {
    return this.testbed.json('sitecast', args);
  }

  publish(path: string, version: string): Promise<Record<string, unknown>> {
    return this.operator(
      'release',
      'publish',
      path,
      '--product',
      PRODUCT,
      '--version',
      version,
      '--hardware',
      HARDWARE,
    );
  }

  async startGateway(site: Site): Promise<void> {
    const token = `${site}.token`;
    await this.operator('token', 'create', '--join', '--kind', 'gateway', '--site', site, '--out', token);
    const args = ['serve', '--data', `gateway-${site}`, '--listen', '127.0.0.1:0', '--token-file', token];
    this.#gateways.set(site, await this.testbed.serve('sitecast-gateway', args));
  }

  async startDevices(site: Site): Promise<void> {
    const token = `${site}-devices.token`;
    const uses = String(DEVICES_PER_SITE);
    await this.operator(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--product',
      PRODUCT,
      '--uses',
      uses,
      '--out',
      token,
    );
    for (let number = 1; number <= DEVICES_PER_SITE; number += 1) {
      const name = `${site}-${number}`;
      const slots = [`${name}-a.img`, `${name}-b.img`];
      for (const slot of slots) {
        await writeFile(this.testbed.path(slot), '');
        await truncate(this.testbed.path(slot), SLOT_BYTES);
      }
      const [a = '', b = ''] = slots;
      const gateway = this.#gateways.get(site)?.url ?? '';
      const args = `run --data ${name} --name ${name} --gateway ${gateway} --token-file ${token} --product ${PRODUCT} --hardware ${HARDWARE} --slot-a ${a} --slot-b ${b} --poll 1s --log-level warn`;
      this.testbed.start('sitecast-agent', [...args.split(' '), '--health-command', HEALTH_COMMAND]);
      this.devices.push({ name, site });
    }
  }

  async enrolledDevices(): Promise<number> {
    const { devices } = await this.operator('device', 'list');
    return Array.isArray(devices) ? devices.length : 0;
  }

  async startRollout(version: string, ...options: string[]): Promise<string> {
    const { id } = await this.operator('rollout', 'start', PRODUCT, version, '--all-at-once', ...options);
    return String(id);
  }

  async rollout(id: string): Promise<RolloutStatus> {
    return rolloutSchema.parse(await this.operator('rollout', 'status', id));
  }

  /** What a technician would see at the device; undefined while it has just started. */
  async status(device: DemoDevice): Promise<AgentStatus> {
    return statusSchema.parse(await this.testbed.json('sitecast-agent', ['status', '--data', device.name]));
  }

  /** Bytes of chunks that the site's gateway has fetched over its WAN, and that it sent to its devices. */
  async siteBytes(site: Site): Promise<{ wan: number; lan: number }> {
    const response = await fetch(`${this.#gateways.get(site)?.url ?? ''}/metrics`);
    const text = await response.text();
    const read = (name: string): number =>
      Number(new RegExp(`^${name}\\{kind="chunks"\\} (\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN);
    return { wan: read('sitecast_wan_received_bytes_total'), lan: read('sitecast_lan_sent_bytes_total') };
  }

  /** Asks again and again until `done`. @throws with what was being waited for */
  async waitFor<T>(
    what: string,
    look: () => Promise<T>,
    done: (seen: T) => boolean,
    timeoutMs = 60_000,
  ): Promise<T> {
    let endMs = performance.now() + timeoutMs;
    let last = '';
    for (;;) {
      const seen = await look();
      if (done(seen)) return seen;
      // On a busy machine it takes longer, but it goes on.
      if (JSON.stringify(seen) !== last) endMs = performance.now() + timeoutMs;
      last = JSON.stringify(seen);
      if (performance.now() > endMs) throw new Error(`waited in vain for ${what}: ${JSON.stringify(seen)}`);
      await sleep(300);
    }
  }
}
