import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Testbed } from '../src/testbed/testbed.ts';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';
import { processCpuMs, processPeakRssBytes, timeProgram } from './process.ts';
import { writeRandomFile } from './scratch.ts';

const MIB = 2 ** 20;
const IMAGE_MIB = 256;
const ROUNDS = 5;
const MEMORY_IMAGES_MIB = [64, 1024];
const CHUNK_SIZES = '16384:65536:262144';
/** Set this to the path of a real image to measure it instead of random bytes. */
const imagePath = process.env.SITECAST_BENCH_IMAGE;

/** What one `release publish` cost. */
interface Published {
  wallMs: number;
  cliCpuMs: number;
  originCpuMs: number;
  cliPeakBytes: number;
  originPeakBytes: number;
}

export const publishBenchmark: Benchmark = {
  name: 'publish',
  what: `\`sitecast release publish\` of ${imagePath ?? `${IMAGE_MIB} MiB, random`} to an origin on loopback, against casync make && sync`,
  run: async () => {
    const casyncs: { wallMs: number; cpuMs: number }[] = [];
    const publishes: Published[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      await inTestbed(async testbed => {
        const image = imagePath ?? (await randomImage(testbed, IMAGE_MIB));
        casyncs.push(await casyncMake(testbed, image));
        publishes.push(await publish(testbed, image));
      });
    }
    const casyncWall = median(casyncs.map(({ wallMs }) => wallMs));
    const casyncCpu = median(casyncs.map(({ cpuMs }) => cpuMs));
    const row = (what: string, wallMs: number, cpuMs: number): Row => ({
      what,
      'wall ms': Math.round(wallMs),
      'of casync': ratio(wallMs, casyncWall),
      'CPU ms': Math.round(cpuMs),
      'CPU of casync': ratio(cpuMs, casyncCpu),
    });
    const wall = median(publishes.map(({ wallMs }) => wallMs));
    const cli = median(publishes.map(({ cliCpuMs }) => cliCpuMs));
    const origin = median(publishes.map(({ originCpuMs }) => originCpuMs));
    return [
      row('casync make && sync', casyncWall, casyncCpu),
      row('release publish, its start included', wall, cli + origin),
      row('  the command', wall, cli),
      row('  the origin', wall, origin),
    ];
  },
};

export const publishMemoryBenchmark: Benchmark = {
  name: 'publish-memory',
  what: 'peak memory of `release publish` and of the origin, for small and large images: equal within 16 MiB',
  run: async () => {
    const rows: Row[] = [];
    for (const mebibytes of MEMORY_IMAGES_MIB) {
      await inTestbed(async testbed => {
        const { cliPeakBytes, originPeakBytes } = await publish(
          testbed,
          await randomImage(testbed, mebibytes),
        );
        rows.push({
          'image MiB': mebibytes,
          'command MiB': (cliPeakBytes / MIB).toFixed(1),
          'origin MiB': (originPeakBytes / MIB).toFixed(1),
        });
      });
    }
    return rows;
  },
};

async function inTestbed(use: (testbed: Testbed) => Promise<void>): Promise<void> {
  const testbed = await Testbed.open();
  try {
    await use(testbed);
  } finally {
    await testbed.close();
  }
}

async function randomImage(testbed: Testbed, mebibytes: number): Promise<string> {
  const path = testbed.path('image');
  await writeRandomFile(path, mebibytes);
  return path;
}

function casyncMake(testbed: Testbed, image: string) {
  const make = `casync make --digest=sha256 --chunk-size=${CHUNK_SIZES} --store=made made.caibx ${image} && sync -f made`;
  return timeProgram('sh', '-c', `cd ${testbed.directory} && ${make}`);
}

async function publish(testbed: Testbed, image: string): Promise<Published> {
  const serve = ['serve', '--data', 'origin', '--listen', '127.0.0.1:0', '--log-level', 'error'];
  const origin = await testbed.serve('sitecast-origin', serve);
  await testbed.foundRepository(origin);
  const before = await processCpuMs(origin.pid);
  const about = ['--product', 'bench', '--version', '1', '--hardware', 'bench'];
  const hook = fileURLToPath(new URL('./record-peak.js', import.meta.url));
  const command = [
    `--import=${hook}`,
    testbed.commandPath('sitecast'),
    'release',
    'publish',
    image,
    ...about,
  ];
  const script = `cd ${testbed.directory} && SITECAST_BENCH_PEAK=peak exec ${process.execPath} ${command.join(' ')}`;
  const { wallMs, cpuMs } = await timeProgram('sh', '-c', script);
  return {
    wallMs,
    cliCpuMs: cpuMs,
    originCpuMs: (await processCpuMs(origin.pid)) - before,
    cliPeakBytes: Number(await readFile(testbed.path('peak'), 'utf8')),
    originPeakBytes: await processPeakRssBytes(origin.pid),
  };
}
