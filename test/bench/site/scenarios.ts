import { cpus } from 'node:os';
import type { Row } from '../benchmark.ts';
import { limitOf, type Outcome, type Scenario } from './measure.ts';
import type { Spent } from './meter.ts';
import type { Shape } from './net.ts';
import type { Image, PeerOutcome } from './peers.ts';

const GIB = 2 ** 30;
/** The lower bound is 1.046: headers of TCP/IP, and what isn't the image. */
const MAX_WAN_COPIES = 1.053;
const MAX_WAN_TIME = 1.06;
const MAX_LAN_COPIES = 1.5;
const MAX_LAN_TIME = 1.5;
/** Where the cores don't limit it. */
const MAX_SLOW_LAN_TIME = 1.15;
/** For an unchanged image: metadata and the devices' reports still cross the WAN. */
const MAX_IDLE_WAN_COPIES = 0.01;
/** Around the lower bound of 1.046. */
const MIN_BED_COPIES = 1.04;
const MAX_BED_COPIES = 1.06;

export const THIN_WAN: Shape = {
  devices: 8,
  gateways: 1,
  wanMbit: 20,
  rttMs: 40,
  lostPer10000: 0,
  gatewayMbit: 1000,
  deviceMbit: 100,
};
export const THIN_GATEWAY: Shape = { ...THIN_WAN, gatewayMbit: 100 };

/**
 * The same network, slowed down. All devices share this machine's cores, which limit the time at full rate (`CPU / limit` shows that). When
 * slowed down they don't, so the remaining loss is the protocol's.
 */
const slowed = (shape: Shape, times: number): Shape => ({
  ...shape,
  wanMbit: shape.wanMbit / times,
  gatewayMbit: shape.gatewayMbit / times,
  deviceMbit: shape.deviceMbit / times,
});

/** The goals of a scenario. */
interface Target {
  /** WAN bytes without those that TCP sent again, in images. */
  wan?: number;
  /** Bytes that the gateway sends, in images. */
  gateway?: number;
  /** The last device's time, in multiples of the minimal time. */
  time?: number;
}

type Judged = Scenario & { target: Target };

const thinWan = (devices: number): Judged => ({
  name: `thin-wan-${devices}`,
  what: 'thin WAN',
  shape: { ...THIN_WAN, devices },
  isWarm: false,
  target: { wan: MAX_WAN_COPIES, time: MAX_WAN_TIME },
});

export const SCENARIOS: readonly Judged[] = [
  thinWan(1),
  thinWan(8),
  thinWan(16),
  {
    name: 'thin-gateway',
    what: 'thin gateway',
    shape: THIN_GATEWAY,
    isWarm: true,
    target: { gateway: MAX_LAN_COPIES, time: MAX_LAN_TIME },
  },
  {
    ...thinWan(8),
    name: 'thin-wan-8-slow',
    what: 'thin WAN, a quarter of the rates',
    shape: slowed(THIN_WAN, 4),
  },
  {
    name: 'thin-gateway-slow',
    what: 'thin gateway, an eighth of the rates',
    shape: slowed(THIN_GATEWAY, 8),
    isWarm: true,
    target: { gateway: MAX_LAN_COPIES, time: MAX_SLOW_LAN_TIME },
  },
  {
    name: 'no-peers',
    what: 'thin gateway, --no-peers',
    shape: THIN_GATEWAY,
    isWarm: true,
    agentFlags: ['--no-peers'],
    target: {},
  },
  {
    name: 'gateway-dies',
    what: 'thin gateway, killed at 50 %',
    shape: THIN_GATEWAY,
    isWarm: true,
    isGatewayKilled: true,
    target: { wan: MAX_IDLE_WAN_COPIES },
  },
  {
    name: 'lossy-wan',
    what: 'thin WAN, 1 % lost',
    shape: { ...THIN_WAN, lostPer10000: 100 },
    isWarm: false,
    target: { wan: MAX_WAN_COPIES },
  },
  {
    name: 'two-gateways',
    what: 'thin WAN, two gateways',
    shape: { ...THIN_WAN, gateways: 2 },
    isWarm: false,
    target: { wan: MAX_WAN_COPIES },
  },
];

/** @returns the goals that were missed, as sentences; empty: none */
export function judge(scenario: Judged, outcome: Outcome, imageBytes: number): string[] {
  const { shape, target } = scenario;
  const { finished, wrong, wanBytes, resentBytes, gatewayBytes, ms } = outcome;
  if (finished < shape.devices) return [`${finished} of ${shape.devices} finished`];
  if (wrong.length > 0) return [`${wrong.length} slots are wrong`];
  const misses: string[] = [];
  const demand = (figure: string, value: number, max: number | undefined): void => {
    if (max !== undefined && !(value <= max)) misses.push(`${figure} > ${max}`);
  };
  demand('WAN', (wanBytes - resentBytes) / imageBytes, target.wan);
  demand('gateway', gatewayBytes / imageBytes, target.gateway);
  demand('time', ms / limitOf(scenario, imageBytes), target.time);
  return misses;
}

export function rowOf(scenario: Judged, outcome: Outcome, imageBytes: number): Row {
  const { what, shape, target } = scenario;
  const misses = judge(scenario, outcome, imageBytes);
  const isJudged = Object.keys(target).length > 0;
  return row({
    what,
    devices: shape.devices,
    spent: outcome,
    imageBytes,
    ms: outcome.finished === shape.devices ? outcome.ms : undefined,
    limitMs: limitOf(scenario, imageBytes),
    agents: outcome,
    target: misses.length > 0 ? `MISSED: ${misses.join(', ')}` : isJudged ? 'met' : '',
  });
}

/** The bytes of one copy over one link are known beforehand; other figures show a fault of the testbed. @returns the faults, as sentences */
export function faultOfTestbed({ wanBytes, gatewayBytes }: Spent, imageBytes: number): string | undefined {
  const copies = Math.max(wanBytes, gatewayBytes) / imageBytes;
  return copies >= MIN_BED_COPIES && copies <= MAX_BED_COPIES ? undefined : 'THE TESTBED IS WRONG';
}

/** A row for a peer, which has no goals. @param limitMs of one copy over the thin link */
export function peerRowOf(
  what: string,
  devices: number,
  outcome: PeerOutcome,
  { image, limitMs, remark }: { image: Image; limitMs: number; remark: string },
): Row {
  const { ms } = outcome;
  return row({ what, devices, spent: outcome, imageBytes: image.bytes, ms, limitMs, target: remark });
}

interface Figures {
  what: string;
  devices: number;
  spent: Spent & { gatewayCpuS: number };
  imageBytes: number;
  /** Time of the last device; undefined: some device didn't get the file. */
  ms: number | undefined;
  limitMs: number;
  agents?: Pick<Outcome, 'agentsCpuS' | 'agentRssMib'>;
  target: string;
}

function row({ what, devices, spent, imageBytes, ms, limitMs, agents, target }: Figures): Row {
  const { wanBytes, resentBytes, gatewayBytes, gatewayCpuS, busy } = spent;
  // The time that this machine's cores alone would need for this, without other work.
  const cpuMs = ((gatewayCpuS + (agents?.agentsCpuS ?? 0)) * 1000) / cpus().length;
  return {
    scenario: what,
    devices,
    'WAN / image': (wanBytes / imageBytes).toFixed(3),
    resent: (resentBytes / imageBytes).toFixed(3),
    'gateway sent': (gatewayBytes / imageBytes).toFixed(2),
    'last / limit': ms === undefined ? '-' : (ms / limitMs).toFixed(2),
    'CPU / limit': agents ? (cpuMs / limitMs).toFixed(2) : '',
    'gateway CPU s': gatewayCpuS.toFixed(1),
    'per GiB': gatewayCpuS > 0 ? (gatewayCpuS / (gatewayBytes / GIB)).toFixed(1) : '',
    "agents' CPU s": agents?.agentsCpuS.toFixed(1) ?? '',
    'agent MiB': agents ? Math.round(agents.agentRssMib) : '',
    'machine busy': `${Math.round(busy * 100)} %`,
    target,
  };
}
