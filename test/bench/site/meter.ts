import { readFileSync } from 'node:fs';
import { processCpuMs } from '../process.ts';
import { FRAME_BYTES } from './limit.ts';
import { numbered, type SiteNet } from './net.ts';

/** What a transfer took: differences of counters. Bytes with all headers. */
export interface Spent {
  wanBytes: number;
  /** Of those, bytes that the origin's TCP sent again. */
  resentBytes: number;
  /** Bytes that all gateways sent into the LAN. */
  gatewayBytes: number;
  /** Share of all cores that was busy, with any process of this machine. */
  busy: number;
}

/** Counts from its creation on. */
export class Meter {
  readonly #net: SiteNet;
  readonly #gateways: number;
  readonly #before;

  constructor(net: SiteNet, gateways: number) {
    this.#net = net;
    this.#gateways = gateways;
    this.#before = this.#counters();
  }

  read(): Spent {
    const [before, after] = [this.#before, this.#counters()];
    return {
      wanBytes: after.wan - before.wan,
      resentBytes: (after.resent - before.resent) * FRAME_BYTES,
      gatewayBytes: after.lan - before.lan,
      busy: 1 - (after.idle - before.idle) / (after.all - before.all),
    };
  }

  #counters(): { wan: number; resent: number; lan: number; idle: number; all: number } {
    const gateways = numbered('g', this.#gateways);
    return {
      wan: this.#net.sentBytes('o', 'wan0'),
      resent: this.#net.resentSegments('o'),
      lan: sum(gateways.map(host => this.#net.sentBytes(host, 'lan0'))),
      ...cpuTicks(),
    };
  }
}

/** CPU time of processes so far, in seconds. */
export async function cpuS(pids: readonly number[]): Promise<number> {
  return sum(await Promise.all(pids.map(processCpuMs))) / 1000;
}

function cpuTicks(): { idle: number; all: number } {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  // Fields: user nice system idle iowait irq softirq steal. Later ones are included in `user` already.
  const fields = line.split(/\s+/).slice(1, 9).map(Number);
  return { idle: (fields[3] ?? 0) + (fields[4] ?? 0), all: sum(fields) };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);
