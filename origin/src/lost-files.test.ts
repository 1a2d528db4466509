import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { type CommandResult, startSitecast } from './testing/command.ts';
import { hexOf } from './testing/operator.ts';
import { openTestOrigin, type TestOrigin } from './testing/origin.ts';
import { temporaryDirectory } from './testing/setup.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let origin: TestOrigin;
let server: RunningServer;
const logged: string[] = [];
/** A file that was read is served from its open handle for a while. */
let passedMs = 0;
const letGo = () => (passedMs += 3_600_000);

const at = (...path: string[]) => join(directory.path, ...path);
const ORIGIN = ['init', 'status', 'release', 'product'];

/** The command as an operator types it. */
async function sitecast(...args: string[]) {
  const connection = ['--origin', server.url, '--token', origin.adminToken];
  const root = ['--root', at('root.json')];
  const state = ['--state', at('state')];
  const keys = ['--keys', at('keys')];
  const isSigning = args[1] === 'publish' || args[1] === 'withdraw';
  const own =
    args[0] === 'init'
      ? [...root, ...keys]
      : args[0] === 'status'
        ? []
        : [...root, ...state, ...(isSigning ? keys : [])];
  const all = ORIGIN.includes(args[0] ?? '') ? [...args, ...connection, ...own] : args;
  return await startSitecast(all).done;
}

async function publish(product: string, version: string) {
  const image = at(`${product}-${version}.img`);
  const known = readdirSync(directory.path).includes(`${product}-${version}.img`);
  if (!known) writeFileSync(image, randomBytes(200_000));
  const about = ['--product', product, '--version', version, '--hardware', 'rpi4'];
  return await sitecast('release', 'publish', image, ...about, '--json');
}

function demand({ exitCode, stderr }: CommandResult): void {
  if (exitCode !== 0) throw new Error(stderr);
}

beforeAll(async () => {
  directory = temporaryDirectory();
  const disks = testDisk(at('data'));
  origin = await openTestOrigin({ ...disks, now: () => Date.now() + passedMs, logged });
  server = await listen(origin.app, { host: '127.0.0.1', port: 0 });
  for (const role of ['root', 'release'])
    demand(await sitecast('keys', 'create', role, '--out', at('keys'), '--no-passphrase'));
  demand(await sitecast('init'));
  for (const version of ['1.0.0', '2.0.0']) demand(await publish('camera', version));
});
afterAll(async () => {
  await server.close(0);
  await origin.scrubber.stop();
  await directory.remove();
});

const folder = () => at('data/repository/targets/releases');
const manifestOf = (product: string, counter: number) =>
  readdirSync(folder()).find(name => name.endsWith(`.${product}-${counter}.json`)) ?? '';
async function productFile(): Promise<Buffer> {
  const { targets } = origin.repository.committed?.targets.signed ?? {};
  const sha256 = targets?.['products/camera.json']?.hashes.sha256 ?? '';
  return readFileSync(at('data/repository/targets/products', `${sha256}.camera.json`));
}
const metric = async (name: string) =>
  Number(new RegExp(`^${name} (.*)$`, 'm').exec(await (await origin.app.request('/metrics')).text())?.[1]);

it('a manifest or product file that is deleted or damaged is restored from its copy when it is read', async () => {
  const manifest = manifestOf('camera', 1);
  const product = `${hexOf(await productFile())}.camera.json`;
  const right = readFileSync(join(folder(), manifest));
  rmSync(join(folder(), manifest));
  writeFileSync(at('data/repository/targets/products', product), 'damaged');
  letGo();
  expect(await publish('camera', '1.0.0')).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining('"unchanged"'),
  });
  expect(readFileSync(join(folder(), manifest))).toEqual(right);
  expect(logged.filter(line => line.includes('put back from its copy'))).toHaveLength(2);
  expect(await metric('sitecast_damaged_files_total')).toBe(2);
  expect(await metric('sitecast_lost_files')).toBe(0);
  // It is restored without a request, too.
  rmSync(join(folder(), manifest));
  await origin.scrubber.survey();
  expect(readFileSync(join(folder(), manifest))).toEqual(right);
});

it('a file that is served although the disk has lost it is listed as lost, and publishing the same again restores it', async () => {
  const manifest = manifestOf('camera', 2);
  const right = readFileSync(join(folder(), manifest));
  expect((await sitecast('release', 'list')).stdout).not.toContain('lost');
  rmSync(join(folder(), manifest));
  rmSync(at('data/spare', manifest.slice(0, 64)));
  await origin.scrubber.survey();
  const list = await sitecast('release', 'list');
  expect(list.stdout).toMatch(/camera +2\.0\.0 .*the origin has lost its manifest/);
  const { stderr } = await sitecast('status');
  expect(stderr).toMatch(/\(releases\/camera-2\.json\): bring it back .* --counter 2\n/);
  expect(stderr).not.toContain('the same image');
  const again = await publish('camera', '2.0.0');
  expect(again.exitCode).toBe(0);
  expect(JSON.parse(again.stdout)).toMatchObject({ state: 'mended', files: ['releases/camera-2.json'] });
  expect(readFileSync(join(folder(), manifest))).toEqual(right);
  expect((await sitecast('status')).stderr).not.toContain('lost');
});

it('a file that is lost with its copy is named once it was requested, and affects nothing else', async () => {
  const manifest = manifestOf('camera', 2);
  rmSync(join(folder(), manifest));
  rmSync(at('data/spare', manifest.slice(0, 64)));
  letGo();
  // Any reader notices it: a gateway, or `release list`.
  const list = await sitecast('release', 'list', '--json');
  expect(JSON.parse(list.stdout)).toMatchObject({
    releases: [{ version: '1.0.0' }],
    lost: [{ product: 'camera', counter: 2 }],
  });
  expect((await sitecast('release', 'list')).stdout).toContain('the origin has lost its manifest');
  const status = await sitecast('status');
  expect(status.stderr).toContain('1 published file is damaged or lost (releases/camera-2.json)');
  expect(await metric('sitecast_lost_files')).toBe(1);
  expect(await (await origin.app.request('/readyz')).json()).toMatchObject({
    status: 'ready',
    damage: { files: 1, chunks: 0 },
  });

  expect(await publish('door', '1.0.0')).toMatchObject({ exitCode: 0 });
  // The lost release could have this very version.
  expect(await publish('camera', '2.0.0')).toMatchObject({
    exitCode: 3,
    stderr: expect.stringMatching(/SITECAST_FILES_LOST[^]*release withdraw camera VERSION --counter 2/),
  });
  expect(await sitecast('release', 'withdraw', 'camera', '2.0.0')).toMatchObject({ exitCode: 3 });
  const withdrawn = await sitecast('release', 'withdraw', 'camera', '2.0.0', '--counter', '2');
  expect(withdrawn).toMatchObject({ exitCode: 0 });
  expect(await publish('camera', '2.0.0')).toMatchObject({
    exitCode: 3,
    stderr: expect.stringContaining('SITECAST_VERSION_EXISTS'),
  });
  expect(await publish('camera', '3.0.0')).toMatchObject({ exitCode: 0 });
  await expect.poll(() => metric('sitecast_lost_files'), { interval: 5, timeout: 60_000 }).toBe(0);
});

it('a file without its copy is reported by the origin itself, where it needs the file first', async () => {
  const manifest = manifestOf('door', 1);
  rmSync(join(folder(), manifest));
  rmSync(at('data/spare', manifest.slice(0, 64)));
  const { repository } = origin;
  expect(repository.damage.files).toBe(0);
  const order = { product: 'door', version: '1.0.0', allAtOnce: true };
  const response = await fetch(`${server.url}/api/v1/rollouts`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${origin.adminToken}` },
    body: JSON.stringify(order),
  });
  expect(await response.json()).toMatchObject({ status: 409, code: 'SITECAST_FILES_LOST' });
  expect(repository.damage.namedFiles()).toEqual(['releases/door-1.json']);
});
