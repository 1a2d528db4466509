import { createReadStream } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { Testbed, type Server } from '../src/testbed/testbed.ts';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';
import { processPeakRssBytes, type Spent, timeProgram } from './process.ts';
import { writeRandomFile } from './scratch.ts';

const MIB = 2 ** 20;
const IMAGE_MIB = 256;
const ROUNDS = 3;
const MEMORY_IMAGES_MIB = [64, 1024];
const PRODUCT = 'bench';
/** Set this to the path of a real image to measure it instead of random bytes. */
const imagePath = process.env.SITECAST_BENCH_IMAGE;

interface Site {
  testbed: Testbed;
  gateway: Server;
  image: string;
  /** Flags of the agent that should run the release. */
  agent: string[];
}

export const installBenchmark: Benchmark = {
  name: 'install',
  what: `\`sitecast-agent update\`: ${imagePath ?? `${IMAGE_MIB} MiB, random`}, from a gateway on loopback to a file slot, against casync extract from the same gateway`,
  run: async () => {
    const agents: (Spent & { peakBytes: number })[] = [];
    const casyncs: Spent[] = [];
    let gatewayBytes = { idle: 0, busy: 0 };
    await atSite(IMAGE_MIB, async site => {
      const idle = await residentBytes(site.gateway.pid);
      await casyncExtract(site, 'warm');
      for (let round = 0; round < ROUNDS; round += 1) {
        casyncs.push(await casyncExtract(site, `extracted-${round}`));
        agents.push(await install(site, `device-${round}`));
      }
      gatewayBytes = { idle, busy: await processPeakRssBytes(site.gateway.pid) };
    });
    const wall = median(casyncs.map(({ wallMs }) => wallMs));
    const cpu = median(casyncs.map(({ cpuMs }) => cpuMs));
    const row = (what: string, spent: readonly Spent[]): Row => {
      const wallMs = median(spent.map(one => one.wallMs));
      const cpuMs = median(spent.map(one => one.cpuMs));
      return {
        what,
        'wall ms': Math.round(wallMs),
        'of casync': ratio(wallMs, wall),
        'CPU ms': Math.round(cpuMs),
        'CPU of casync': ratio(cpuMs, cpu),
      };
    };
    const peak = Math.round(median(agents.map(({ peakBytes }) => peakBytes)) / MIB);
    const { idle, busy } = gatewayBytes;
    return [
      row('casync extract', casyncs),
      row(`agent update, its start and health check included (peak ${peak} MiB)`, agents),
      {
        what: `(gateway: ${Math.round(idle / MIB)} MiB idle, ${Math.round(busy / MIB)} MiB at its busiest)`,
        'wall ms': '',
        'of casync': '',
        'CPU ms': '',
        'CPU of casync': '',
      },
    ];
  },
};

export const installMemoryBenchmark: Benchmark = {
  name: 'install-memory',
  what: "an agent's peak memory while it installs small and large images (equal within 16 MiB), and that of a daemon with nothing to do",
  run: async () => {
    const rows: Row[] = [];
    for (const mebibytes of MEMORY_IMAGES_MIB) {
      await atSite(mebibytes, async site => {
        const { peakBytes } = await install(site, 'device');
        const daemon = site.testbed.start('sitecast-agent', ['run', ...site.agent, '--data', 'device']);
        await site.testbed.until(async () => (await daemonState(site.testbed)) === 'idle');
        const idleBytes = await residentBytes(daemon.pid);
        await daemon.stop();
        rows.push({
          'image MiB': mebibytes,
          'installing MiB': (peakBytes / MIB).toFixed(1),
          'idle MiB': (idleBytes / MIB).toFixed(1),
          'gateway MiB': ((await processPeakRssBytes(site.gateway.pid)) / MIB).toFixed(1),
        });
      });
    }
    return rows;
  },
};

/** A site with one release, rolled out; its gateway has it; no device has installed it yet. */
async function atSite(mebibytes: number, use: (site: Site) => Promise<void>): Promise<void> {
  const testbed = await Testbed.open();
  try {
    const image = imagePath ?? testbed.path('image');
    if (imagePath === undefined) await writeRandomFile(image, mebibytes);
    const quiet = ['--listen', '127.0.0.1:0', '--log-level', 'error'];
    const origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet]);
    const operate = (...args: string[]) => testbed.json('sitecast', args);
    await testbed.foundRepository(origin);
    const about = ['--product', PRODUCT, '--version', '1', '--hardware', 'bench'];
    await operate('release', 'publish', image, ...about);
    await operate('rollout', 'start', PRODUCT, '1', '--all-at-once');
    const joinToken = ['token', 'create', '--join', '--kind'];
    await operate(...joinToken, 'gateway', '--site', 'here', '--out', 'gateway.token');
    await operate(...joinToken, 'device', '--product', PRODUCT, '--uses', '100', '--out', 'device.token');
    const tokenFile = ['--token-file', 'gateway.token'];
    const gateway = await testbed.serve('sitecast-gateway', [
      'serve',
      '--data',
      'gw',
      ...tokenFile,
      ...quiet,
    ]);
    await testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);
    const agent =
      `--gateway ${gateway.url} --token-file device.token --product ${PRODUCT} --hardware bench --log-level error`.split(
        ' ',
      );
    await use({ testbed, gateway, image, agent: [...agent, '--slot-a', 'a.img', '--slot-b', 'b.img'] });
  } finally {
    await testbed.close();
  }
}

/** A device without anything enrols, fetches, verifies, activates, checks its health, and reports. */
async function install(
  { testbed, agent, image }: Site,
  data: string,
): Promise<Spent & { peakBytes: number }> {
  for (const slot of ['a.img', 'b.img']) await writeFile(testbed.path(slot), '');
  const hook = fileURLToPath(new URL('./record-peak.js', import.meta.url));
  const command = [
    `--import=${hook}`,
    testbed.commandPath('sitecast-agent'),
    'update',
    ...agent,
    '--data',
    data,
  ];
  const script = `cd ${testbed.directory} && SITECAST_BENCH_PEAK=peak exec ${process.execPath} ${command.join(' ')}`;
  const spent = await timeProgram('sh', '-c', script);
  if ((await sha256Of(testbed.path('b.img'))) !== (await sha256Of(image)))
    throw new Error('the slot is wrong');
  return { ...spent, peakBytes: Number(await readFile(testbed.path('peak'), 'utf8')) };
}

async function casyncExtract({ testbed, gateway, image }: Site, to: string): Promise<Spent> {
  const releases = testbed.path('origin', 'repository', 'targets', 'releases');
  const index = (await readdir(releases)).find(file => file.endsWith('.caibx'));
  if (index === undefined) throw new Error(`no index in ${releases}`);
  const extract = `casync extract --digest=sha256 --store=${gateway.url}/chunks ${join(releases, index)} ${to}`;
  const spent = await timeProgram('sh', '-c', `cd ${testbed.directory} && ${extract} && sync -f ${to}`);
  if ((await sha256Of(testbed.path(to))) !== (await sha256Of(image)))
    throw new Error('casync made another image');
  return spent;
}

async function daemonState(testbed: Testbed): Promise<unknown> {
  const { exitCode, stdout } = await testbed.run('sitecast-agent', ['status', '--data', 'device', '--json']);
  const status: { state?: unknown; isAlive?: boolean } = exitCode === 0 ? JSON.parse(stdout) : {};
  return status.isAlive === true ? status.state : undefined;
}

async function residentBytes(pid: number): Promise<number> {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kilobytes) * 1024;
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
