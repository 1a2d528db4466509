import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cpuS, Meter, type Spent } from './meter.ts';
import { gatewayAddress, type Host, numbered, ORIGIN_ADDRESS, SiteNet, type Shape } from './net.ts';
import { torrentOf } from './torrent.ts';

const HTTP_PORT = 8000;
const START_TIMEOUT_MS = 20_000;
const DOWNLOAD_TIMEOUT_MS = 120_000;
const LOOK_EVERY_MS = 10;
/** How long a seeder needs to hash its file and announce itself to the tracker. */
const SEED_SETTLE_MS = 3000;

type Started = ChildProcessByStdio<Writable, Readable, null>;

export interface Image {
  path: string;
  bytes: number;
}

export interface PeerOutcome extends Spent {
  /** From the start of the first download to the end of the last, with verification. */
  ms: number;
  gatewayCpuS: number;
}

/** The testbed itself: one device; curl directly from a server at the origin, through the gateway's kernel only. */
export function curlOverWan(shape: Shape, image: Image, scratch: string): Promise<PeerOutcome> {
  return inNet(shape, scratch, async net => {
    await startNode(net, 'o', 'file-server', ORIGIN_ADDRESS, String(HTTP_PORT), image.path);
    return curlAll(net, shape, `http://${ORIGIN_ADDRESS}:${HTTP_PORT}/image`, image, []);
  });
}

/** The same in the LAN, from a server at the gateway. */
export function curlInLan(shape: Shape, image: Image, scratch: string): Promise<PeerOutcome> {
  return inNet(shape, scratch, async net => {
    await startNode(net, 'g1', 'file-server', gatewayAddress(1), String(HTTP_PORT), image.path);
    return curlAll(net, shape, `http://${gatewayAddress(1)}:${HTTP_PORT}/image`, image, []);
  });
}

/** squid at the gateway, in front of a server at the origin; requests for the same file are merged. */
export function squid(shape: Shape, image: Image, scratch: string): Promise<PeerOutcome> {
  return inNet(shape, scratch, async (net, directory) => {
    await startNode(net, 'o', 'file-server', ORIGIN_ADDRESS, String(HTTP_PORT), image.path);
    const listen = `${gatewayAddress(1)}:3128`;
    const config = join(directory, 'squid.conf');
    await writeFile(
      config,
      `http_port ${listen} accel defaultsite=${ORIGIN_ADDRESS}
       cache_peer ${ORIGIN_ADDRESS} parent ${HTTP_PORT} 0 no-query no-digest originserver
       http_access allow all
       collapsed_forwarding on
       cache_mem 256 MB
       maximum_object_size 256 MB
       maximum_object_size_in_memory 128 MB
       access_log none
       cache_log /dev/null
       cache_store_log none
       coredump_dir none
       pid_filename none
       pinger_enable off
       visible_hostname gateway
      `,
    );
    const child = start(net, 'g1', 'squid', '-N', '-f', config);
    await untilListens(net, 'g1', `http://${listen}/squid-internal-static/none`);
    return curlAll(net, shape, `http://${listen}/image`, image, [child]);
  });
}

/** A swarm of aria2 (BitTorrent), seeded by the gateway, which also runs the tracker. */
export function aria2(shape: Shape, image: Image, scratch: string): Promise<PeerOutcome> {
  return inNet(shape, scratch, async (net, directory) => {
    await startNode(net, 'g1', 'tracker', gatewayAddress(1), String(HTTP_PORT));
    const torrent = join(directory, 'image.torrent');
    const announce = `http://${gatewayAddress(1)}:${HTTP_PORT}/announce`;
    await writeFile(torrent, torrentOf('image', readFileSync(image.path), announce));
    const hook = join(directory, 'completed');
    await writeFile(hook, '#!/bin/sh\nexec touch "$(dirname "$3")/completed-marker"\n', { mode: 0o755 });
    const common =
      '--no-conf --quiet --enable-dht=false --enable-dht6=false --bt-enable-lpd=false --bt-tracker-interval=1 --file-allocation=none --listen-port=6881 --seed-ratio=0 --seed-time=60'.split(
        ' ',
      );
    const seed = join(directory, 'seed');
    await mkdir(seed);
    await symlink(image.path, join(seed, 'image'));
    const seeder = start(net, 'g1', 'aria2c', ...common, '--check-integrity=true', `--dir=${seed}`, torrent);
    await sleep(SEED_SETTLE_MS);
    const devices = numbered('d', shape.devices);
    for (const host of devices) await mkdir(join(directory, host));
    const [meter, cpuBefore, from] = [new Meter(net, 1), await cpuOf([seeder]), performance.now()];
    for (const host of devices) {
      const own = [`--dir=${join(directory, host)}`, `--on-bt-download-complete=${hook}`];
      start(net, host, 'aria2c', ...common, ...own, torrent);
    }
    const markers = devices.map(host => join(directory, host, 'completed-marker'));
    while (!markers.every(marker => existsSync(marker))) {
      if (performance.now() - from > DOWNLOAD_TIMEOUT_MS) throw new Error('aria2 never ended');
      await sleep(LOOK_EVERY_MS);
    }
    const ms = performance.now() - from;
    return { ...meter.read(), ms, gatewayCpuS: (await cpuOf([seeder])) - cpuBefore };
  });
}

async function inNet<T>(
  shape: Shape,
  scratch: string,
  use: (net: SiteNet, directory: string) => Promise<T>,
): Promise<T> {
  const net = await SiteNet.open(shape, scratch);
  try {
    return await use(net, await mkdtemp(join(scratch, 'peer-')));
  } finally {
    net.close();
  }
}

/** Each device fetches and hashes the file. @param servers whose CPU time counts as the gateway's */
async function curlAll(
  net: SiteNet,
  { devices }: Shape,
  url: string,
  image: Image,
  servers: readonly ChildProcess[],
): Promise<PeerOutcome> {
  const wanted = createHash('sha256').update(readFileSync(image.path)).digest('hex');
  // The processes run beforehand, like agents, and wait for a line of input.
  const waiting = numbered('d', devices).map(host =>
    start(net, host, 'sh', '-c', `echo ready; read go; curl -sf ${url} | sha256sum`),
  );
  await Promise.all(waiting.map(({ stdout }) => once(stdout, 'data')));
  const [meter, cpuBefore, from] = [new Meter(net, 1), await cpuOf(servers), performance.now()];
  await Promise.all(
    waiting.map(async child => {
      let printed = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
      child.stdin.end('go\n');
      await once(child, 'close');
      if (!printed.startsWith(wanted)) throw new Error(`a device got something else from ${url}`);
    }),
  );
  const ms = performance.now() - from;
  return { ...meter.read(), ms, gatewayCpuS: (await cpuOf(servers)) - cpuBefore };
}

function start(net: SiteNet, host: Host, ...command: string[]): Started {
  const [program = '', ...args] = [...net.at(host), ...command];
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  return spawn(program, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
}

/** Starts one of the scripts beside this file; resolves when it is ready. */
async function startNode(net: SiteNet, host: Host, script: string, ...args: string[]): Promise<void> {
  const path = fileURLToPath(new URL(`./${script}.js`, import.meta.url));
  const { stdout } = start(net, host, process.execPath, path, ...args);
  await once(createInterface(stdout), 'line', { signal: AbortSignal.timeout(START_TIMEOUT_MS) });
}

async function untilListens(net: SiteNet, host: Host, url: string): Promise<void> {
  const endMs = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      net.run(host, 'curl', '-s', '-o', '/dev/null', url);
      return;
    } catch (error) {
      if (performance.now() > endMs) throw error;
      await sleep(LOOK_EVERY_MS);
    }
  }
}

function cpuOf(children: readonly ChildProcess[]): Promise<number> {
  return cpuS(children.map(({ pid = 0 }) => pid));
}
