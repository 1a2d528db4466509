import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { Agent, get } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { randomBytes } from 'node:crypto';
import { chunkPath } from '@sitecast/shared/content';
import { FakeOrigin } from '@sitecast/shared/testing/origin';
import { type Benchmark, type Row, ratio } from './benchmark.ts';
import { nextMessage, startScript } from './process.ts';
import { inScratch } from './scratch.ts';

const MIB = 2 ** 20;
const IMAGE_MIB = 32;
/** The average of the default chunker. */
const CHUNK_BYTES = 64 * 1024;
const CLIENTS = 64;
/** How often each client fetches everything. */
const ROUNDS = 3;
const NGINX_PORT = 17_433;
const CLOCK_TICKS_PER_S = 100;
const GATEWAY = fileURLToPath(new URL('../../../gateway/bin/sitecast-gateway.js', import.meta.url));

/** How much a server sent, and with how much CPU time. */
interface Served {
  mebibytes: number;
  cpuS: number;
  peakRssMib: number;
}

export const gatewayServingBenchmark: Benchmark = {
  name: 'gateway-serving',
  what: `${CLIENTS} clients fetch one release (${IMAGE_MIB} MiB in chunks of 64 KiB) at once, against nginx serving the same files, and against a bare node:http server, which bounds what a gateway can reach`,
  run: () => inScratch(compare),
};

async function compare(directory: string): Promise<Row[]> {
  const origin = await FakeOrigin.start();
  const { ids } = await origin.publishRelease('camera', 1, randomBytes(IMAGE_MIB * MIB), CHUNK_BYTES);
  await origin.startRollout('camera', 1);
  const root = join(directory, 'root.json');
  await writeFile(root, origin.repository.rootBytes);
  const paths = ids.map(id => `/chunks/${chunkPath(id)}`);
  const data = join(directory, 'gateway');
  const gateway = [
    'serve',
    '--origin',
    origin.url,
    '--data',
    data,
    '--root',
    root,
    '--listen',
    '127.0.0.1:0',
  ];
  try {
    const warm = await withGateway(gateway, async (url, child) => {
      const idleRssMib = await rssMib(child);
      await fetchAll(url, paths, 8);
      const served = await measure(child, url, paths);
      return { ...served, idleRssMib };
    });
    const disk = await withGateway([...gateway, '--memory-bytes', '0'], (url, child) =>
      measure(child, url, paths),
    );
    const bare = await withBareServer('memory', join(data, 'chunks'), (url, child) =>
      measure(child, url, paths),
    );
    const nginx = await withNginx(directory, data, (url, child) => measure(child, url, paths));
    const row = (what: string, { mebibytes, cpuS, peakRssMib }: Served): Row => ({
      what,
      'MB per CPU s': Math.round((mebibytes * MIB) / 1e6 / cpuS),
      'of nginx': ratio(mebibytes / cpuS, nginx.mebibytes / nginx.cpuS),
      'of node:http': ratio(mebibytes / cpuS, bare.mebibytes / bare.cpuS),
      'CPU s': cpuS.toFixed(2),
      'peak MiB': Math.round(peakRssMib),
    });
    return [
      row(`gateway (idle: ${Math.round(warm.idleRssMib)} MiB)`, warm),
      row('gateway, each from disk', disk),
      row('bare node:http, from memory', bare),
      row('nginx, sendfile', nginx),
    ];
  } finally {
    await origin.close();
  }
}

async function measure(child: ChildProcess, url: string, paths: readonly string[]): Promise<Served> {
  // One round beforehand: compiles code and fills the page cache.
  await fetchAll(url, paths, CLIENTS / 4);
  const before = await cpuS(child);
  let bytes = 0;
  for (let round = 0; round < ROUNDS; round += 1) bytes += await fetchAll(url, paths, CLIENTS);
  return { mebibytes: bytes / MIB, cpuS: (await cpuS(child)) - before, peakRssMib: await peakRssMib(child) };
}

/** Each client fetches every path over a connection of its own, each beginning with another path. */
export async function fetchAll(url: string, paths: readonly string[], clients: number): Promise<number> {
  const sums = await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const from = Math.floor((client * paths.length) / clients);
      let bytes = 0;
      for (const path of [...paths.slice(from), ...paths.slice(0, from)])
        bytes += await fetchOne(url + path, agent);
      agent.destroy();
      return bytes;
    }),
  );
  return sums.reduce((sum, bytes) => sum + bytes, 0);
}

function fetchOne(url: string, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { agent }, response => {
      let bytes = 0;
      response.on('data', (piece: Buffer) => (bytes += piece.length));
      response.on('end', () =>
        response.statusCode === 200 ? resolve(bytes) : reject(new Error(`status ${response.statusCode}`)),
      );
      response.on('error', reject);
    }).on('error', reject);
  });
}

/** Runs a gateway while `use` runs; waits first until it can serve. */
export async function withGateway<T>(
  args: readonly string[],
  use: (url: string, child: ChildProcess) => Promise<T>,
): Promise<T> {
  const child = spawn(process.execPath, [GATEWAY, ...args, '--log-level', 'warn'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const [line]: string[] = await once(createInterface(child.stdout), 'line');
    const url = /http:\S+/.exec(line ?? '')?.[0];
    if (url === undefined) throw new Error(`the gateway said ${line}`);
    while ((await fetch(`${url}/readyz`)).status !== 200)
      await new Promise(resolve => setTimeout(resolve, 50));
    return await use(url, child);
  } finally {
    await stop(child);
  }
}

/** @param data the directory with the folder `chunks`, which is served */
export async function withNginx<T>(
  directory: string,
  data: string,
  use: (url: string, child: ChildProcess) => Promise<T>,
): Promise<T> {
  const config = join(directory, 'nginx.conf');
  await writeFile(
    config,
    `daemon off; master_process off; pid ${directory}/nginx.pid; error_log stderr crit;
     events { worker_connections 1024; }
     http {
       access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
       client_body_temp_path ${directory}/t1; proxy_temp_path ${directory}/t2; fastcgi_temp_path ${directory}/t3;
       uwsgi_temp_path ${directory}/t4; scgi_temp_path ${directory}/t5;
       server { listen 127.0.0.1:${NGINX_PORT}; root ${data}; }
     }`,
  );
  const child = spawn('nginx', ['-c', config, '-p', directory], { stdio: ['ignore', 'ignore', 'inherit'] });
  const url = `http://127.0.0.1:${NGINX_PORT}`;
  try {
    for (let tries = 0; ; tries += 1) {
      try {
        await fetch(url);
        break;
      } catch (error) {
        if (tries === 100) throw error;
        await new Promise(resolve => setTimeout(resolve, 50));
      }
    }
    return await use(url, child);
  } finally {
    await stop(child);
  }
}

/** @param how see bare-chunk-server.ts @param folder of chunks */
export async function withBareServer<T>(
  how: 'memory' | 'checked',
  folder: string,
  use: (url: string, child: ChildProcess) => Promise<T>,
): Promise<T> {
  const child = startScript('bare-chunk-server', how, folder);
  try {
    return await use(`http://127.0.0.1:${await nextMessage<number>(child)}`, child);
  } finally {
    await stop(child);
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  await once(child, 'exit');
}

/** User and system time of a process so far, in seconds. */
export async function cpuS({ pid }: Pick<ChildProcess, 'pid'>): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_S;
}

export async function rssMib({ pid }: Pick<ChildProcess, 'pid'>): Promise<number> {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}

async function peakRssMib({ pid }: ChildProcess): Promise<number> {
  return Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}
