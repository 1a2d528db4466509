import { access, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Benchmark, CannotMeasure, type Row, ratio } from './benchmark.ts';
import type { DeltaFigures } from './delta-make.ts';
import { PEERS, type PeerFigures, type PeerJob } from './delta-peers.ts';
import { type Measured, measure } from './measured.ts';

const MIB = 2 ** 20;
/** Where the pairs of images are, or are built. */
const pairsPath = process.env.SITECAST_BENCH_PAIRS ?? join(tmpdir(), 'sitecast-bench-pairs');
/** Set this to names of pairs, separated by commas, to measure only those. */
const chosen = process.env.SITECAST_BENCH_PAIR?.split(',');

/** Pairs of images NAME-old.EXTENSION and NAME-new.EXTENSION, and the trees that they were made of. */
const PAIRS = [
  { name: 'libnode', extension: 'bin' },
  { name: 'rootfs', extension: 'ext4', tree: 'rootfs' },
  { name: 'kernel', extension: 'ext4', tree: 'kernel' },
  { name: 'rootfs', extension: 'squashfs' },
  { name: 'kernel', extension: 'squashfs' },
  { name: 'rootfs-gzip', extension: 'squashfs' },
  { name: 'rootfs-xz', extension: 'squashfs' },
  { name: 'rootfs-lzo', extension: 'squashfs' },
  { name: 'rootfs-filtered', extension: 'squashfs' },
  { name: 'rootfs-newer-zstd', extension: 'squashfs' },
];

export const deltaBenchmark: Benchmark = {
  name: 'delta',
  what: `bytes from one image to the next, against the tools that are installed (pairs in ${pairsPath}, SITECAST_BENCH_PAIRS; some of them: SITECAST_BENCH_PAIR=rootfs.ext4)`,
  run: async () => {
    if (!(await isThere(join(pairsPath, 'libnode-new.bin')))) buildPairs();
    for (const { name, programs } of PEERS) {
      const lacking = programs.filter(program => !isInstalled(program));
      if (lacking.length > 0)
        process.stdout.write(`  ${name} isn't measured: no ${lacking.join(', ')} here\n`);
    }
    const rows: Row[] = [];
    for (const pair of PAIRS) {
      const title = `${pair.name}.${pair.extension}`;
      if (chosen !== undefined && !chosen.includes(title)) continue;
      const [base, target] = ['old', 'new'].map(side =>
        join(pairsPath, `${pair.name}-${side}.${pair.extension}`),
      );
      if (base === undefined || target === undefined || !(await isThere(target))) {
        process.stdout.write(`  ${title} isn't measured: it is not there\n`);
        continue;
      }
      rows.push(...(await measurePair(title, await jobOf(base, target, pair.tree))));
    }
    return rows;
  },
};

async function jobOf(
  base: string,
  target: string,
  tree: string | undefined,
): Promise<Omit<PeerJob, 'directory'>> {
  const trees =
    tree === undefined
      ? undefined
      : { base: join(pairsPath, '.work', `${tree}-old`), target: join(pairsPath, '.work', `${tree}-new`) };
  return { base, target, trees: trees !== undefined && (await isThere(trees.target)) ? trees : undefined };
}

async function measurePair(pair: string, job: Omit<PeerJob, 'directory'>): Promise<Row[]> {
  const peers: { name: string; figures: PeerFigures }[] = [];
  for (const { name, programs, run } of PEERS) {
    if (!programs.every(isInstalled)) continue;
    const figures = await inDirectory(directory => run({ ...job, directory }));
    if (figures !== undefined) peers.push({ name, figures });
    process.stderr.write(`  ${pair}: ${name}: ${figures?.bytes ?? '–'}\n`);
  }
  const bspatchMs = peers.find(({ name }) => name === 'bsdiff')?.figures.apply?.cpuMs;
  const best = Math.min(...peers.map(({ figures }) => figures.bytes));
  const rows = peers.map(({ name, figures }) => rowOf(pair, name, figures, best));
  const { parts, idlePeaks, ...ours } = await inDirectory(directory => makeAndApply({ ...job, directory }));
  const about = `recipe ${parts.recipeBytes}, patches ${parts.patchBytes} + ${parts.patchIndexBytes}, chunks ${parts.chunkBytes}, ${parts.windows} windows`;
  const without = parts.unmade.length === 0 ? '' : `, ${parts.unmade.length} without a patch`;
  const above = (step: 'make' | 'apply'): string =>
    ((ours[step].peakBytes - idlePeaks[step]) / MIB).toFixed(0);
  const ofBspatch =
    bspatchMs === undefined
      ? 'no bspatch here'
      : `${ratio(ours.apply.cpuMs, bspatchMs)} of the CPU of bspatch`;
  const { closedBytes }: { closedBytes: number } = JSON.parse(ours.apply.stdout);
  const encoded =
    closedBytes === 0
      ? ''
      : `, ${((ours.apply.cpuMs / closedBytes) * 1e6).toFixed(0)} ms for a re-encoded MB`;
  return [
    ...rows,
    rowOf(
      pair,
      `Sitecast (${about}${without}; making: ${above('make')} MiB above an idle origin; applying: ${above('apply')} MiB above idle, ${ofBspatch}${encoded})`,
      ours,
      best,
    ),
  ];
}

/** The maker and the applier, each in a process of its own. */
async function makeAndApply({ base, target, directory }: PeerJob) {
  const script = (name: string) => fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const start = (name: string, ...given: string[]): Promise<Measured> =>
    measure(directory, process.execPath, script(name), ...given);
  const run = (name: string, ...more: string[]): Promise<Measured> => start(name, base, target, ...more);
  await start('delta-index', base, 'base.caibx');
  await start('delta-index', target, 'target.caibx');
  const idleMaker = await run('delta-make', 'idle');
  const make = await run('delta-make');
  const parts: DeltaFigures = JSON.parse(make.stdout);
  const idle = await run('delta-apply', 'idle');
  const apply = await run('delta-apply');
  const bytes = parts.recipeBytes + parts.patchIndexBytes + parts.patchBytes + parts.chunkBytes;
  return { bytes, make, apply, parts, idlePeaks: { make: idleMaker.peakBytes, apply: idle.peakBytes } };
}

function rowOf(pair: string, what: string, { bytes, make, apply }: PeerFigures, best: number): Row {
  const seconds = (measured: Measured | undefined) =>
    measured === undefined ? '' : (measured.cpuMs / 1000).toFixed(1);
  const mebibytes = (measured: Measured | undefined) =>
    measured === undefined ? '' : Math.round(measured.peakBytes / MIB);
  return {
    pair,
    bytes,
    'of the best peer': ratio(bytes, best),
    'make CPU s': seconds(make),
    'make MiB': mebibytes(make),
    'apply CPU s': seconds(apply),
    'apply MiB': mebibytes(apply),
    what,
  };
}

/** A directory beside the pairs, because /tmp may be small. */
async function inDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  await mkdir(pairsPath, { recursive: true });
  const directory = await mkdtemp(join(pairsPath, '.bench-'));
  try {
    return await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function buildPairs(): void {
  process.stderr.write(`building the pairs in ${pairsPath}: some minutes\n`);
  const script = fileURLToPath(new URL('../../bench/delta-pairs.sh', import.meta.url));
  const { status } = spawnSync('bash', [script, pairsPath], { stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0)
    throw new CannotMeasure(`${script} can't build the pairs here: see ${join(pairsPath, '.work')}`);
}

function isInstalled(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
