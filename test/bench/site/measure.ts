import { setTimeout as sleep } from 'node:timers/promises';
import { processRssBytes } from '../process.ts';
import { limitMs } from './limit.ts';
import { cpuS, Meter, type Spent } from './meter.ts';
import { type Shape, SiteNet } from './net.ts';
import type { Image } from './peers.ts';
import { SiteTestbed } from './site-testbed.ts';
import { SpreadCopy } from './spread-copy.ts';
import { UpdateWatch } from './watch.ts';

const MIB = 2 ** 20;
const LOOK_EVERY_MS = 50;
/** A scenario that takes this many times its minimal time won't end. */
const PATIENCE = 15;
const MIN_PATIENCE_MS = 60_000;

export interface Scenario {
  name: string;
  what: string;
  shape: Shape;
  /** Whether the gateway has the image before the start. */
  isWarm: boolean;
  /** Kills the gateway when each device has half of the image, and all together have the whole image. */
  isGatewayKilled?: boolean;
  agentFlags?: readonly string[];
}

/** What a scenario took, beginning with the order; for `ms`, see `UpdateWatch`. */
export interface Outcome extends Spent {
  finished: number;
  /** From the first device's begin until the last one has verified it. */
  ms: number;
  /** Of all gateways. */
  gatewayCpuS: number;
  /** Of all agents. */
  agentsCpuS: number;
  /** Resident memory of the largest agent, at the end. */
  agentRssMib: number;
  /** Devices whose slot doesn't hold the image, although they say so. */
  wrong: readonly string[];
}

/** The time of one copy over the scenario's thin link. */
export function limitOf({ shape, isWarm }: Pick<Scenario, 'shape' | 'isWarm'>, imageBytes: number): number {
  return limitMs(imageBytes, isWarm ? shape.gatewayMbit : shape.wanMbit);
}

export async function measure(scenario: Scenario, image: Image, scratch: string): Promise<Outcome> {
  const { shape, isWarm, agentFlags = [] } = scenario;
  const net = await SiteNet.open(shape, scratch);
  try {
    const { devices, gateways, wanMbit } = shape;
    const options = { devices, gateways, wanMbit, image: image.path, isWarm, agentFlags, scratch };
    const site = await SiteTestbed.open(net, options);
    try {
      return await transfer(scenario, net, site, image);
    } finally {
      await site.close();
    }
  } finally {
    net.close();
  }
}

async function transfer(scenario: Scenario, net: SiteNet, site: SiteTestbed, image: Image): Promise<Outcome> {
  const { devices, gateways } = scenario.shape;
  const watched = new UpdateWatch(site.agentDirectories);
  try {
    const pids = { gateways: site.gateways.map(({ pid }) => pid), agents: site.agents.map(({ pid }) => pid) };
    const before = { gateways: await cpuS(pids.gateways), agents: await cpuS(pids.agents) };
    const meter = new Meter(net, gateways);
    await site.rollOut();
    const endMs = performance.now() + Math.max(MIN_PATIENCE_MS, PATIENCE * limitOf(scenario, image.bytes));
    const isOver = () => watched.verifiedCount >= devices || performance.now() > endMs;
    if (scenario.isGatewayKilled) await untilSpread(image, site, isOver);
    else while (!isOver()) await sleep(LOOK_EVERY_MS);
    const gatewayCpuS = (await cpuS(pids.gateways)) - before.gateways;
    if (scenario.isGatewayKilled) {
      await Promise.all(site.gateways.map(gateway => gateway.stop('SIGKILL')));
      while (!isOver()) await sleep(LOOK_EVERY_MS);
    }
    const spent = meter.read();
    const rss = await Promise.all(pids.agents.map(processRssBytes));
    return {
      ...spent,
      finished: watched.verifiedCount,
      ms: watched.lastVerifiedAt - (watched.begunAt ?? Number.NaN),
      gatewayCpuS,
      agentsCpuS: (await cpuS(pids.agents)) - before.agents,
      agentRssMib: Math.max(...rss) / MIB,
      wrong: watched.verifiedCount < devices ? [] : await site.wrongSlots(),
    };
  } finally {
    watched.close();
  }
}

/** @throws when the devices finish before that moment: then nothing was shown */
async function untilSpread(image: Image, site: SiteTestbed, isOver: () => boolean): Promise<void> {
  const spread = new SpreadCopy(image.path, site.slots);
  while (!spread.isHalfWithAWhole()) {
    if (isOver())
      throw new Error('no moment was seen in which half of the image was there, and a copy spread');
    await sleep(LOOK_EVERY_MS);
  }
}
