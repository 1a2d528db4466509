import { execFile, spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { ChunkIndex, chunkIdToHex } from '@sitecast/shared/content';
import { z } from 'zod';
import { CutOffSite } from '../src/testbed/cut-off-site.ts';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';
import { writeRandomFile } from './scratch.ts';
import { demandTestbed } from './site/needs.ts';

const run = promisify(execFile);
const MEBIBYTES = 16;
const LINE_MBIT = 20;
const ROUNDS = 6;
/** The part of a full Ethernet frame that is TCP payload. */
const PAYLOAD_PART = 1448 / 1514;
const INDEXES = 'origin/repository/targets/releases';

const fetched = z.object({ bytes: z.number(), seconds: z.number() });

export const neighbourBenchmark: Benchmark = {
  name: 'neighbour',
  what: `a gateway whose only way out is another site's gateway, over a line of ${LINE_MBIT} Mbit/s: from a publication to its mirror, and ${MEBIBYTES} MiB of chunks`,
  run: async () => {
    demandTestbed();
    const site = await CutOffSite.open(LINE_MBIT);
    try {
      return await measure(site);
    } finally {
      await site.close();
    }
  },
};

async function measure(site: CutOffSite): Promise<Row[]> {
  await site.addNear('near');
  const far = await site.addFar('far', 'named');
  const image = site.testbed.path('image');
  await writeRandomFile(image, MEBIBYTES, 'neighbour');
  const about = ['--product', 'bench', '--version', '1.0.0', '--hardware', 'bench'];
  await site.operate('release', 'publish', 'image', ...about);
  const there = watch(site.atOrigin, site.origin.url);
  const here = watch(site.atSite, far.url);
  try {
    const { id } = await site.operate('rollout', 'start', 'bench', '1.0.0', '--all-at-once', '--soak', '0s');
    for (let round = 0; round < ROUNDS; round += 1)
      await site.operate('rollout', round % 2 === 0 ? 'pause' : 'resume', String(id));
    const newest = Math.max(...there.served.keys());
    await site.testbed.until(async () => here.served.has(newest), 'the mirror to have the newest set');
  } finally {
    there.stop();
    here.stop();
  }
  const tookMs = [...here.served]
    .slice(1)
    .map(([version, atMs]) => atMs - (there.served.get(version) ?? Number.NaN));
  const { bytes, seconds } = await fetchChunks(site, far.url);
  const limitS = bytes / ((LINE_MBIT * 1e6 * PAYLOAD_PART) / 8);
  return [
    {
      what: 'from a publication to the mirror of the gateway that is cut off',
      figure: `${Math.round(median(tookMs))} ms, the slowest of ${tookMs.length} ${Math.round(Math.max(...tookMs))} ms`,
      target: '2000 ms',
    },
    {
      what: `${(bytes / 2 ** 20).toFixed(1)} MiB of chunks over the neighbour, of what the line carries`,
      figure: ratio(limitS, seconds),
      target: '0.90',
    },
  ];
}

const script = (name: string): string => fileURLToPath(new URL(`./${name}.js`, import.meta.url));

/** When a server began to serve each timestamp, in ms since 1970, by version. */
function watch(at: readonly string[], url: string): { served: Map<number, number>; stop(): void } {
  const served = new Map<number, number>();
  const [program, ...args] = [...at, process.execPath, script('timestamp-watch'), url];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  createInterface(child.stdout).on('line', line => {
    const [version = 0, atMs = 0] = line.split(' ').map(Number);
    served.set(version, atMs);
  });
  return { served, stop: () => child.kill('SIGKILL') };
}

/** Fetches all chunks of the image like a device of the site. */
async function fetchChunks(site: CutOffSite, url: string): Promise<z.infer<typeof fetched>> {
  const folder = site.testbed.path(INDEXES);
  const name = (await readdir(folder)).find(file => file.endsWith('bench-1.caibx')) ?? '';
  const index = ChunkIndex.decode(await readFile(join(folder, name)));
  const ids = Array.from({ length: index.count }, (_, at) => chunkIdToHex(index.idAt(at)));
  const path = site.testbed.path('ids');
  await writeFile(path, ids.join('\n'));
  const [program, ...args] = [...site.atSite, process.execPath, script('neighbour-fetch'), url, path];
  const { stdout } = await run(program, args);
  return fetched.parse(JSON.parse(stdout));
}
