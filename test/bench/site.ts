import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Benchmark, CannotMeasure, type Row } from './benchmark.ts';
import { inScratch, writeRandomFile } from './scratch.ts';
import { endAtOnce } from './site/end-at-once.ts';
import { limitMs } from './site/limit.ts';
import { measure } from './site/measure.ts';
import { demandTestbed, hasPeer } from './site/needs.ts';
import type { Shape } from './site/net.ts';
import { aria2, curlInLan, curlOverWan, type Image, type PeerOutcome, squid } from './site/peers.ts';
import {
  faultOfTestbed,
  judge,
  peerRowOf,
  rowOf,
  SCENARIOS,
  THIN_GATEWAY,
  THIN_WAN,
} from './site/scenarios.ts';

const IMAGE_MIB = 32;
const SEED = 'sitecast site benchmark';
/** Names of scenarios and peers, separated by commas; not set: all. */
const chosen = process.env.SITECAST_BENCH_SITE?.split(',');

interface Peer {
  name: string;
  what: string;
  shape: Shape;
  /** Rate of the thin link. */
  mbit: number;
  /** A program that may be missing, and Debian's package. */
  needs?: [string, string];
  run: (shape: Shape, image: Image, scratch: string) => Promise<PeerOutcome>;
}

const lan = { shape: THIN_GATEWAY, mbit: THIN_GATEWAY.gatewayMbit };
const wan = { shape: THIN_WAN, mbit: THIN_WAN.wanMbit };
/** The testbed itself comes first: one curl over each thin link takes 1.046 copies and, except for TCP's start, the minimal time. */
const PEERS: readonly Peer[] = [
  {
    ...wan,
    name: 'testbed-wan',
    what: 'the testbed: curl over the WAN',
    shape: { ...THIN_WAN, devices: 1 },
    run: curlOverWan,
  },
  {
    ...lan,
    name: 'testbed-lan',
    what: "the testbed: curl over the gateway's port",
    shape: { ...THIN_GATEWAY, devices: 1 },
    run: curlInLan,
  },
  { ...wan, name: 'squid', what: 'thin WAN, squid', needs: ['squid', 'squid'], run: squid },
  { ...lan, name: 'aria2', what: 'thin gateway, aria2', needs: ['aria2c', 'aria2'], run: aria2 },
];

export const siteBenchmark: Benchmark = {
  name: 'site',
  what: `one ${IMAGE_MIB} MiB image to all devices of a site over thin links, in multiples of one copy and of its time; as root`,
  run: () => {
    demandTestbed();
    return inScratch(async scratch => {
      const ending = endAtOnce(scratch);
      try {
        return await run(scratch);
      } finally {
        ending.forget();
      }
    });
  },
};

async function run(scratch: string): Promise<Row[]> {
  const path = join(scratch, 'image');
  await writeRandomFile(path, IMAGE_MIB, SEED);
  const image = { path, bytes: (await stat(path)).size };
  const rows: Row[] = [];
  for (const { name, what, shape, mbit, needs, run } of PEERS.filter(isChosen)) {
    if (needs && !hasPeer(...needs)) continue;
    say(name);
    const outcome = await run(shape, image, scratch);
    const isTestbed = name.startsWith('testbed-');
    const fault = isTestbed ? faultOfTestbed(outcome, image.bytes) : undefined;
    if (fault !== undefined) process.exitCode = 1;
    const remark = fault ?? (isTestbed ? 'as it should be' : 'peer');
    rows.push(
      peerRowOf(what, shape.devices, outcome, { image, limitMs: limitMs(image.bytes, mbit), remark }),
    );
  }
  for (const scenario of SCENARIOS.filter(isChosen)) {
    say(scenario.name);
    try {
      const outcome = await measure(scenario, image, scratch);
      rows.push(shown(rowOf(scenario, outcome, image.bytes)));
      if (judge(scenario, outcome, image.bytes).length > 0) process.exitCode = 1;
    } catch (error) {
      if (error instanceof CannotMeasure) throw error;
      process.stderr.write(
        `  ${scenario.name} failed: ${error instanceof Error ? error.message : String(error)}\n`,
      );
      process.exitCode = 1;
    }
  }
  return rows;
}

const isChosen = ({ name }: { name: string }): boolean => chosen === undefined || chosen.includes(name);

/** Prints progress and results, since a run takes minutes. */
function say(text: string): void {
  process.stderr.write(`  … ${text}\n`);
}

function shown(row: Row): Row {
  say(`WAN ${row['WAN / image']}, gateway ${row['gateway sent']}, last ${row['last / limit']} ${row.target}`);
  return row;
}
