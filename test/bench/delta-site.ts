import { access, open, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Benchmark, CannotMeasure, type Row } from './benchmark.ts';
import { inScratch } from './scratch.ts';
import { SiteContent } from './site/content.ts';
import { endAtOnce } from './site/end-at-once.ts';
import { demandTestbed } from './site/needs.ts';
import { SiteNet } from './site/net.ts';
import { THIN_WAN } from './site/scenarios.ts';
import { SiteTestbed } from './site/site-testbed.ts';
import { UpdateWatch } from './site/watch.ts';

const MIB = 2 ** 20;
/** The bases differ in blocks of this length. */
const BLOCK_BYTES = 65_536;
/** Bound on the content that crosses the WAN, as a multiple of one copy of what the site needs. */
const MAX_COPIES = 1.01;
const LOOK_EVERY_MS = 200;
const TIMEOUT_MS = 1_800_000;
const pairsPath = process.env.SITECAST_BENCH_PAIRS ?? join(tmpdir(), 'sitecast-bench-pairs');
/** NAME.EXTENSION of the pair; and how many MiB of it are used, if not all. */
const pair = process.env.SITECAST_BENCH_PAIR ?? 'libnode.bin';
const MIB_USED = Number(process.env.SITECAST_BENCH_MIB ?? Number.POSITIVE_INFINITY);

/** Eight devices of one site that run this many versions. */
const SCENARIOS = [
  { versions: 1, flags: [] },
  { versions: 1, flags: ['--no-peers'] },
  { versions: 4, flags: [] },
  { versions: 4, flags: ['--no-peers'] },
];

export const deltaSiteBenchmark: Benchmark = {
  name: 'delta-site',
  what: `bytes over a site's thin WAN for an update by deltas, in what its devices' plans take together; as root (pairs in ${pairsPath}: run \`delta\` before, or set SITECAST_BENCH_PAIRS; SITECAST_BENCH_PAIR=libnode.bin, SITECAST_BENCH_MIB=16)`,
  run: async () => {
    demandTestbed();
    const [name = '', extension = ''] = pair.split('.');
    const [old, next] = ['old', 'new'].map(side => join(pairsPath, `${name}-${side}.${extension}`));
    if (old === undefined || next === undefined || !(await isThere(next)))
      throw new CannotMeasure(`delta-site: there is no pair ${pair} in ${pairsPath}`);
    return inScratch(async scratch => {
      const ending = endAtOnce(scratch);
      try {
        const rows: Row[] = [];
        for (const scenario of SCENARIOS) {
          const row = await measure(scenario, { old, next, scratch });
          process.stderr.write(`  ${JSON.stringify(row)}\n`);
          rows.push(row);
        }
        return rows;
      } finally {
        ending.forget();
      }
    });
  },
};

async function measure(
  { versions, flags }: { versions: number; flags: readonly string[] },
  { old, next, scratch }: { old: string; next: string; scratch: string },
): Promise<Row> {
  const target = await read(next);
  const image = join(scratch, 'image');
  await writeFile(image, target);
  const bases = await writeBases(await read(old), target, { versions, scratch });
  const net = await SiteNet.open(THIN_WAN, scratch);
  try {
    const { devices, gateways, wanMbit } = THIN_WAN;
    const options = { devices, gateways, wanMbit, image, isWarm: false, scratch, agentFlags: flags, bases };
    const site = await SiteTestbed.open(net, options);
    try {
      return await transfer(site, { versions, flags });
    } finally {
      await site.close();
    }
  } finally {
    net.close();
  }
}

async function transfer(
  site: SiteTestbed,
  { versions, flags }: { versions: number; flags: readonly string[] },
): Promise<Row> {
  const { devices } = THIN_WAN;
  const content = new SiteContent(site);
  const watched = new UpdateWatch(site.agentDirectories);
  try {
    await site.rollOut();
    const endMs = performance.now() + TIMEOUT_MS;
    while (watched.verifiedCount < devices && performance.now() < endMs) await sleep(LOOK_EVERY_MS);
    // Anything that is fetched ahead without need would arrive now.
    await sleep(5000);
    const spent = await content.bytes();
    const isChunk = (path: string): boolean => path.startsWith('chunks/');
    const { plans, image } = await content.needed();
    const needed = Math.min(plans, image);
    const wrong = watched.verifiedCount < devices ? [] : await site.wrongSlots();
    const faults = [
      ...(watched.verifiedCount < devices ? [`${watched.verifiedCount} of ${devices} finished`] : []),
      ...(wrong.length > 0 ? [`${wrong.length} slots are wrong`] : []),
      ...(spent <= MAX_COPIES * needed ? [] : [`content > ${MAX_COPIES}`]),
    ];
    if (faults.length > 0) process.exitCode = 1;
    return {
      devices: `${devices} on ${versions} version${versions > 1 ? 's' : ''} ${flags.join(' ')}`.trim(),
      'content bytes': spent,
      'of them chunks': await content.bytes(isChunk),
      requests: content.fetched.length,
      'all plans': plans,
      image,
      'content / needed': (spent / needed).toFixed(4),
      target: faults.length > 0 ? `MISSED: ${faults.join(', ')}` : 'met',
    };
  } finally {
    watched.close();
  }
}

/**
 * Writes the bases: the first is the old image, each other one has another part of the changes applied. So their plans differ, and
 * overlap.
 */
async function writeBases(
  old: Buffer,
  target: Buffer,
  { versions, scratch }: { versions: number; scratch: string },
): Promise<string[]> {
  const starts: number[] = [];
  for (let at = 0; at < Math.min(old.length, target.length); at += BLOCK_BYTES)
    if (!old.subarray(at, at + BLOCK_BYTES).equals(target.subarray(at, at + BLOCK_BYTES))) starts.push(at);
  if (starts.length < versions)
    throw new CannotMeasure(`delta-site: only ${starts.length} blocks of the pair differ`);
  const share = Math.ceil(starts.length / versions);
  const bases: string[] = [];
  for (let version = 0; version < versions; version += 1) {
    const base = Buffer.from(old);
    const changed = version === 0 ? [] : starts.slice(version * share, (version + 1) * share);
    for (const at of changed) target.copy(base, at, at, at + BLOCK_BYTES);
    const path = join(scratch, `base-${version + 1}`);
    await writeFile(path, base);
    bases.push(path);
  }
  return bases;
}

async function read(path: string): Promise<Buffer> {
  if (!Number.isFinite(MIB_USED)) return readFile(path);
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.min(size, MIB_USED * MIB));
    await file.read(bytes, 0, bytes.length, 0);
    return bytes;
  } finally {
    await file.close();
  }
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
