import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HttpFetcher, MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';
import { until } from '@sitecast/shared/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { imageOf } from './testing/operator.ts';
import { randomChunks, temporaryDirectory, temporaryOrigin } from './testing/setup.ts';

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
let server: RunningServer;
const scratch = temporaryDirectory();
const image = imageOf(...randomChunks(12, 65_536), ...randomChunks(1, 1234));

beforeAll(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  await origin.operator.publishOk('camera', imageOf(...image.chunks.slice(3)));
  await origin.operator.publishOk('camera', image);
  server = await listen(origin.app, { host: '127.0.0.1', port: 0 });
});
afterAll(async () => {
  await server.close(0);
  await origin.remove();
  await scratch.remove();
});

function has(program: string, ...args: string[]): boolean {
  try {
    execFileSync(program, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** In CI no program may be missing. Elsewhere the test gives the reason for its skip. */
function needs(program: string, ...args: string[]): { skip: boolean; why: string } {
  const isThere = has(program, ...args);
  if (!isThere && process.env.CI !== undefined) throw new Error(`${program} is not installed`);
  return { skip: !isThere, why: isThere ? '' : ` (skipped: ${program} is not installed)` };
}

const nginx = needs('nginx', '-v');
const casync = needs('casync', '--version');

/** Serves the repository's folder with an unmodified nginx, on a free port. */
async function startNginx(): Promise<{ url: string; stop: () => Promise<void> }> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  probe.close();
  const directory = join(scratch.path, 'nginx');
  mkdirSync(directory, { recursive: true });
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    name => `${name}_temp_path ${directory}/${name};`,
  );
  writeFileSync(
    join(directory, 'nginx.conf'),
    `${process.getuid?.() === 0 ? 'user root;' : ''} daemon off; pid ${directory}/pid; error_log stderr;
     events {}
     http { access_log off; ${temporary.join(' ')}
       server { listen 127.0.0.1:${port}; root ${origin.path}/repository; } }`,
  );
  const child = spawn('nginx', ['-p', directory, '-c', join(directory, 'nginx.conf')], { stdio: 'ignore' });
  const ended = once(child, 'close');
  const url = `http://127.0.0.1:${port}`;
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  try {
    await until('nginx to listen', () =>
      fetch(url).then(
        () => true,
        () => false,
      ),
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, stop };
}

/** Follows the repository from its first root, and fetches a release as a device's agent does. */
async function expectClientAccepts(url: string): Promise<void> {
  const store = new MemoryMetadataStore();
  const rootBytes = readFileSync(join(origin.path, 'repository/metadata/1.root.json'));
  await TufClient.init(store, rootBytes, origin.clock.nowMs);
  const client = await TufClient.open({
    store,
    fetcher: new HttpFetcher(`${url}/metadata`),
    targetFetcher: new HttpFetcher(`${url}/targets`),
    now: origin.clock.now,
  });
  await client.refresh();
  expect(client.trusted.targets?.signed.version).toBe(3);
  for (const name of ['releases/camera-2.caibx', 'releases/camera-2.json', 'products/camera.json']) {
    const found = await client.findTarget(name);
    if (!found) throw new Error(`${name} is not listed`);
    await client.fetchTarget(found);
  }
  expect((await client.loadDelegated('rollouts')).signed.targets).toEqual({});
  expect(await client.findTarget('rollouts/camera.json')).toBeUndefined();
}

/** Debian's casync assembles the image from an index and the chunks below a URL. */
async function expectCasyncExtracts(url: string, name: string): Promise<void> {
  const index = join(scratch.path, `${name}.caibx`);
  const out = join(scratch.path, `${name}.img`);
  writeFileSync(index, image.index);
  await promisify(execFile)('casync', ['extract', `--store=${url}/chunks`, index, out]);
  expect(readFileSync(out).equals(Buffer.concat(image.chunks))).toBe(true);
}

describe('what the origin serves', () => {
  it('is accepted by the TUF client', () => expectClientAccepts(server.url));

  it.skipIf(casync.skip)(`is read by casync${casync.why}`, () => expectCasyncExtracts(server.url, 'origin'));
});

describe.skipIf(nginx.skip)(`what nginx serves from the repository's folder${nginx.why}`, () => {
  let web: Awaited<ReturnType<typeof startNginx>> | undefined;
  const url = () => web?.url ?? '';
  beforeAll(async () => {
    web = await startNginx();
  });
  afterAll(() => web?.stop());

  it('is accepted by the TUF client', () => expectClientAccepts(url()));

  it.skipIf(casync.skip)(`is read by casync${casync.why}`, () => expectCasyncExtracts(url(), 'nginx'));

  it('is byte for byte what the origin serves, and nothing else', async () => {
    for (const path of ['/metadata/timestamp.json', '/metadata/1.root.json', '/metadata/3.targets.json']) {
      const [ours, theirs] = await Promise.all([server.url, url()].map(base => fetch(base + path)));
      if (!ours || !theirs) throw new Error('unreachable');
      expect(await ours.text()).toBe(await theirs.text());
    }
    for (const path of [
      '/keys/timestamp.pem',
      '/admin.token',
      '/staging/commit.json',
      '/metadata/2.root.json',
    ]) {
      expect((await fetch(url() + path)).status).toBe(404);
    }
  });
});
