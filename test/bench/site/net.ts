import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { CannotMeasure } from '../benchmark.ts';

/** A site's network; rates in Mbit/s. */
export interface Shape {
  devices: number;
  gateways: number;
  wanMbit: number;
  /** Round-trip time. */
  rttMs: number;
  /** Lost frames, in each direction. */
  lostPer10000: number;
  /** Rate of a gateway's port in the LAN. */
  gatewayMbit: number;
  /** Rate of a device's port. */
  deviceMbit: number;
}

export const ORIGIN_ADDRESS = '10.91.0.1';
export const gatewayAddress = (at: number): string => `10.92.0.${at}`;
const deviceAddress = (at: number): string => `10.92.0.${10 + at}`;

/** `o`: the origin; `g1`, `g2`: gateways (`g1` is also the site's router); `d1`…: devices. */
export type Host = 'o' | `g${number}` | `d${number}`;

const PREFIX = 'sc-';
const SWITCH = 'sw';
/** About 50 ms at 1 Gbit/s may queue at a shaper, and 5 ms at 100 Mbit/s pass at once. */
const LAN_SHAPER = ['burst', '128kb', 'latency', '50ms'];
const WAN_SHAPER = ['burst', '8kb', 'latency', '200ms'];

/** The kernel notices new carriers once a second; until then frames are lost, and a lost SYN costs another second. */
const CARRIER_MS = 2000;

const qdiscs = z.array(z.object({ kind: z.string(), bytes: z.number() }));

/**
 * Origin, gateways and devices in network namespaces of their own: origin —WAN— `g1` —switch— the others. Every port has a rate; the WAN
 * has a delay and may lose frames. Namespaces are called `sc-PID-HOST`.
 */
export class SiteNet {
  static readonly #open = new Set<SiteNet>();
  readonly #spaces: string[] = [];
  readonly #delay: { child?: ChildProcess } = {};

  private constructor() {
    // Created by `open` only.
  }

  /**
   * @param scratch directory for the compiled link
   * @throws CannotMeasure where the kernel or a program refuses
   */
  static async open(shape: Shape, scratch: string): Promise<SiteNet> {
    sweep();
    const net = new SiteNet();
    SiteNet.#open.add(net);
    try {
      await net.#build(shape, scratch);
      await sleep(CARRIER_MS);
      return net;
    } catch (cause) {
      net.close();
      throw new CannotMeasure(`site: the network can't be made: ${String(cause)}`, { cause });
    }
  }

  /** Removes all networks of this process, for when it must end at once. */
  static closeAll(): void {
    for (const net of SiteNet.#open) net.close();
  }

  /** The words in front of a command that run it at a host. */
  at(host: Host): string[] {
    return ['ip', 'netns', 'exec', nameOf(host)];
  }

  /**
   * Bytes that a host has sent, with TCP/IP and Ethernet headers, as its shaper counts them. The interface's own counter would count a
   * segment that the kernel splits later as one frame with one header.
   */
  sentBytes(host: Host, device: 'wan0' | 'lan0'): number {
    const text = run('tc', '-n', nameOf(host), '-s', '-j', 'qdisc', 'show', 'dev', device);
    const shaper = qdiscs.parse(JSON.parse(text)).find(({ kind }) => kind === 'tbf');
    if (!shaper) throw new Error(`${device} of ${host} isn't shaped`);
    return shaper.bytes;
  }

  /** TCP segments that a host has sent again since its creation. */
  resentSegments(host: Host): number {
    const [names = '', values = ''] = this.run(host, 'cat', '/proc/net/snmp')
      .split('\n')
      .filter(line => line.startsWith('Tcp:'));
    return Number(values.split(' ')[names.split(' ').indexOf('RetransSegs')]);
  }

  /** Runs a program at a host until it ends. @returns its output @throws when it fails */
  run(host: Host, ...command: string[]): string {
    const [program = '', ...args] = [...this.at(host), ...command];
    return run(program, ...args);
  }

  /** Sets the rate of the WAN in both directions. */
  shapeWan(mbit: number): void {
    for (const host of ['o', 'g1'] as const) {
      const shaper = ['root', 'tbf', 'rate', `${mbit}mbit`, ...WAN_SHAPER];
      run('tc', '-n', nameOf(host), 'qdisc', 'replace', 'dev', 'wan0', ...shaper);
    }
  }

  /** Ends all processes at all hosts, and removes the hosts. Never throws, as it is called after errors. */
  close(): void {
    SiteNet.#open.delete(this);
    this.#delay.child?.kill('SIGKILL');
    for (const space of this.#spaces.splice(0)) remove(space);
  }

  async #build(shape: Shape, scratch: string): Promise<void> {
    const hosts = [
      ...numbered('g', shape.gateways).map((host, at) => ({ host, address: gatewayAddress(at + 1) })),
      ...numbered('d', shape.devices).map((host, at) => ({ host, address: deviceAddress(at + 1) })),
    ];
    for (const host of ['o', SWITCH, ...hosts.map(({ host }) => host)]) this.#addSpace(nameOf(host));
    await this.#linkWan(shape, scratch);
    const hub = nameOf(SWITCH);
    run('ip', '-n', hub, 'link', 'add', 'br0', 'type', 'bridge');
    run('ip', '-n', hub, 'link', 'set', 'br0', 'up');
    for (const { host, address } of hosts) {
      const isGateway = host.startsWith('g');
      plug(host, address, isGateway ? shape.gatewayMbit : shape.deviceMbit);
      if (host !== 'g1') run('ip', '-n', nameOf(host), 'route', 'add', 'default', 'via', gatewayAddress(1));
    }
    run('ip', '-n', nameOf('o'), 'route', 'add', '10.92.0.0/24', 'via', '10.91.0.2');
    this.run('g1', 'sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward');
  }

  #addSpace(space: string): void {
    run('ip', 'netns', 'add', space);
    this.#spaces.push(space);
    run('ip', '-n', space, 'link', 'set', 'lo', 'up');
    // No traffic for finding neighbours; but squid needs ::1.
    const quiet = 'cd /proc/sys/net/ipv6/conf && echo 1 >all/disable_ipv6 && echo 0 >lo/disable_ipv6 || true';
    run('ip', 'netns', 'exec', space, 'sh', '-c', quiet);
  }

  async #linkWan({ wanMbit, rttMs, lostPer10000 }: Shape, scratch: string): Promise<void> {
    const program = join(scratch, 'link-delay');
    const source = fileURLToPath(new URL('../../../bench/site/link-delay.c', import.meta.url));
    run('cc', '-O2', '-o', program, source);
    const ends = [nameOf('o'), 'wan0', nameOf('g1'), 'wan0'];
    const args = [...ends, String(rttMs * 500), String(lostPer10000)];
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#delay.child = child;
    const isReady = once(createInterface(child.stdout), 'line').then(() => true);
    const hasEnded = once(child, 'exit').then(() => false);
    if (!(await Promise.race([isReady, hasEnded]))) throw new Error('link-delay ended at once');
    run('ip', '-n', nameOf('o'), 'addr', 'add', `${ORIGIN_ADDRESS}/24`, 'dev', 'wan0');
    run('ip', '-n', nameOf('g1'), 'addr', 'add', '10.91.0.2/24', 'dev', 'wan0');
    for (const host of ['o', 'g1'] as const)
      run('ip', '-n', nameOf(host), 'link', 'set', 'wan0', 'txqueuelen', '1000', 'up');
    this.shapeWan(wanMbit);
  }
}

const nameOf = (host: string): string => `${PREFIX}${process.pid}-${host}`;

export function numbered<L extends 'g' | 'd'>(letter: L, count: number): `${L}${number}`[] {
  return Array.from({ length: count }, (_, at): `${L}${number}` => `${letter}${at + 1}`);
}

function plug(host: string, address: string, mbit: number): void {
  const [space, hub, port] = [nameOf(host), nameOf(SWITCH), `p-${host}`];
  run('ip', 'link', 'add', 'lan0', 'netns', space, 'type', 'veth', 'peer', 'name', port, 'netns', hub);
  run('ip', '-n', space, 'addr', 'add', `${address}/24`, 'dev', 'lan0');
  run('ip', '-n', space, 'link', 'set', 'lan0', 'up');
  run('ip', '-n', hub, 'link', 'set', port, 'master', 'br0', 'up');
  for (const [where, device] of [
    [space, 'lan0'],
    [hub, port],
  ] as const) {
    const shaper = ['root', 'tbf', 'rate', `${mbit}mbit`, ...LAN_SHAPER];
    run('tc', '-n', where, 'qdisc', 'add', 'dev', device, ...shaper);
  }
}

/** Removes what a killed run has left behind. */
function sweep(): void {
  for (const line of run('ip', 'netns', 'list').split('\n')) {
    const [, space, pid] = /^(sc-(\d+)-\w+)/.exec(line) ?? [];
    if (space !== undefined && !isAlive(Number(pid))) remove(space);
  }
}

function remove(space: string): void {
  try {
    for (const pid of run('ip', 'netns', 'pids', space).split('\n').filter(Boolean))
      process.kill(Number(pid), 'SIGKILL');
  } catch {
    // It has ended meanwhile, or the namespace is gone.
  }
  try {
    run('ip', 'netns', 'delete', space);
  } catch {
    // It is gone already; otherwise the next run removes it.
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function run(program: string, ...args: string[]): string {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  return execFileSync(program, args, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
