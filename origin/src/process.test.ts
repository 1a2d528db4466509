import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { HttpFetcher, MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { imageOf, type TestOperator } from './testing/operator.ts';
import { randomChunks, temporaryDirectory } from './testing/setup.ts';
import { fillDisk, mountSmallDisk, unmount } from './testing/small-disk.ts';
import { spawnOrigin, type SpawnedOrigin } from './testing/spawned.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let data: string;
const running: SpawnedOrigin[] = [];
beforeEach(() => {
  directory = temporaryDirectory();
  data = join(directory.path, 'data');
});
afterEach(async () => {
  for (const origin of running.splice(0)) await origin.stop('SIGKILL');
  await directory.remove();
});

async function start(args: readonly string[] = [], at = data): Promise<SpawnedOrigin> {
  const origin = await spawnOrigin(at, args);
  running.push(origin);
  return origin;
}

/** Connects an operator to the next process. */
function moveTo({ url, operator: { token } }: SpawnedOrigin, operator: TestOperator): void {
  operator.connect((path, init) => fetch(url + path, init), token);
}

async function targetsVersion(operator: TestOperator): Promise<number> {
  const { versions }: { versions: { targets: number } } = JSON.parse(
    await (await operator.ask('/api/v1/repository')).text(),
  );
  return versions.targets;
}

const mode = (path: string) => (statSync(join(data, path)).mode & 0o777).toString(8);

it('creates its data directory, prints its address and the token’s file, and keeps secrets readable for itself only', async () => {
  const origin = await start(['--log-level', 'trace']);
  const token = readFileSync(join(data, 'admin.token'), 'utf8');
  expect(token).toMatch(/^sitecast_[\w-]{43}\n$/);
  expect(origin.output().split('\n')).toEqual([
    `The admin's API token is in ${data}/admin.token`,
    `sitecast-origin listens on ${origin.url}, data in ${data}`,
    '',
  ]);
  expect(mode('admin.token')).toBe('600');
  expect(['keys', 'state', 'staging'].map(mode)).toEqual(['700', '700', '700']);
  expect(['timestamp', 'snapshot', 'rollouts', 'deltas'].map(role => mode(`keys/${role}.pem`))).toEqual(
    Array.from({ length: 4 }, () => '600'),
  );
  expect(await origin.operator.initialise()).toMatchObject({ httpStatus: 200 });

  await expect(spawnOrigin(data)).rejects.toThrow(
    /exit code 3: .*another process is using the data directory/,
  );
  const other = join(directory.path, 'other');
  await expect(spawnOrigin(other, ['--listen', new URL(origin.url).host])).rejects.toThrow(
    /exit code 1: .*the address is in use by another process/,
  );

  expect(await origin.stop('SIGINT')).toBe(0);
  for (const line of origin.log().trim().split('\n')) {
    expect(JSON.parse(line)).toMatchObject({ service: 'sitecast-origin', msg: expect.any(String) });
  }
  expect(origin.log()).not.toContain(token.trim());
  expect(origin.log()).not.toContain('PRIVATE');

  const again = await start();
  expect(again.output()).not.toContain('token');
  // A request that is running when the process is asked to stop is finished.
  const upload = again.operator.uploadChunks(randomChunks(64, 50_000));
  await new Promise(resolve => setTimeout(resolve, 20));
  // The connection may come too late to be accepted.
  const [response, code] = await Promise.all([upload.catch(() => undefined), again.stop('SIGTERM')]);
  expect(code).toBe(0);
  // Either the whole request was handled, or its connection was never accepted.
  expect([200, undefined]).toContain(response?.status);
});

it('says what is wrong with TLS files that it cannot read', async () => {
  await expect(
    spawnOrigin(data, ['--tls-cert', '/nowhere.pem', '--tls-key', '/nowhere.pem']),
  ).rejects.toThrow(/exit code 2: .*nowhere\.pem: no such file/);
});

describe('a killed process', () => {
  it('during an upload loses no acknowledged chunk, and keeps no partial one', async () => {
    const origin = await start();
    await origin.operator.initialise();
    const chunks = randomChunks(200, 20_000);
    const batches = Array.from({ length: 20 }, (_, at) => chunks.slice(at * 10, at * 10 + 10));
    const taken: Buffer[] = [];
    const uploads = batches.map(batch =>
      origin.operator.uploadChunks(batch).then(
        ({ ok }) => ok && taken.push(...batch),
        () => undefined,
      ),
    );
    await expect.poll(() => taken.length, { interval: 1 }).toBeGreaterThan(30);
    await origin.stop('SIGKILL');
    await Promise.all(uploads);
    writeFileSync(join(data, 'staging/files', `${'a'.repeat(64)}.x.partial`), 'half');
    writeFileSync(join(data, 'repository/metadata/timestamp.json.x.partial'), 'half');

    const next = await start();
    const names = readdirSync(data, { recursive: true, encoding: 'utf8' });
    expect(names.filter(name => name.endsWith('.partial'))).toEqual([]);
    const { operator } = origin;
    moveTo(next, operator);
    const missing = await operator.ask('/api/v1/chunks/missing', {
      method: 'POST',
      body: Buffer.concat(taken.map(chunk => Buffer.from(chunkIdOf(chunk)))),
      type: 'application/octet-stream',
    });
    expect((await missing.arrayBuffer()).byteLength).toBe(0);
    await operator.upload(imageOf(...chunks.slice(0, 50)));
    await operator.publishOk('camera', imageOf(...chunks.slice(0, 50)));
  });

  it('during a publication has published everything or nothing, and publishes it when asked again', async () => {
    let origin = await start();
    const { operator } = origin;
    await operator.initialise();
    const store = new MemoryMetadataStore();
    await TufClient.init(store, Buffer.from(await operator.signedRoot()), Date.now());
    // Earlier and later during a publication.
    for (const [round, delayMs] of [5, 30].entries()) {
      const image = imageOf(...randomChunks(60, 2000));
      operator.next();
      operator.addRelease('camera', image);
      await operator.upload(image);
      await operator.uploadFiles();
      const change = { targets: await operator.signedTargets() };
      // The origin usually dies before it answers.
      const answer = operator.send(change).catch(() => undefined);
      await new Promise(resolve => setTimeout(resolve, delayMs));
      await origin.stop('SIGKILL');
      await answer;

      origin = await start();
      moveTo(origin, operator);
      const wanted = operator.prepared().version;
      expect([wanted - 1, wanted]).toContain(await targetsVersion(operator));
      await operator.upload(image);
      await operator.uploadFiles();
      expect(await operator.send(change)).toMatchObject({ httpStatus: 200, versions: { targets: wanted } });
      const fetcher = new HttpFetcher(`${origin.url}/metadata/`);
      const client = await TufClient.open({ store, fetcher, now: Date.now });
      await client.refresh();
      expect(await client.findTarget(`releases/camera-${round + 1}.json`)).toBeDefined();
    }
  });
});

describe('a full disk', () => {
  it('is reported as 507 with its own code, leaves nothing half-done, and does no harm once there is room again', async context => {
    if (!mountSmallDisk(data, 16)) context.skip('a small tmpfs could not be mounted: that takes root');
    try {
      await expectRoomToMatter();
    } finally {
      for (const origin of running.splice(0)) await origin.stop('SIGKILL');
      unmount(data);
    }
  });

  async function expectRoomToMatter(): Promise<void> {
    const { operator, url } = await start(['--reserve', '0']);
    await operator.initialise();
    const image = imageOf(...randomChunks(10, 1000));
    operator.next();
    operator.addRelease('camera', image);
    await operator.upload(image);
    await operator.uploadFiles();

    const refusals: unknown[] = [];
    while (refusals.length === 0) {
      const response = await operator.uploadChunks(randomChunks(50, 50_000));
      if (!response.ok) refusals.push(await response.json());
    }
    expect(refusals[0]).toMatchObject({ status: 507, code: 'SITECAST_NO_SPACE', hint: expect.any(String) });
    const staged = readdirSync(join(data, 'staging/chunks')).map(
      name => statSync(join(data, 'staging/chunks', name)).size,
    );
    expect(new Set(staged.map(size => (size > 2000 ? 50_000 : 1000) < size)).size).toBe(1);

    fillDisk(join(data, 'filler'));
    const file = Buffer.alloc(100_000, 'x');
    expect(await (await operator.uploadFile(file)).json()).toMatchObject({
      status: 507,
      code: 'SITECAST_NO_SPACE',
    });
    expect(await operator.submit()).toMatchObject({ httpStatus: 507, code: 'SITECAST_NO_SPACE' });
    expect((await operator.json('/api/v1/repository')).versions).toMatchObject({ targets: 1, timestamp: 1 });
    expect(readdirSync(join(data, 'repository/metadata'))).not.toContain('2.targets.json');
    expect((await fetch(`${url}/metadata/timestamp.json`)).status).toBe(200);

    rmSync(join(data, 'filler'));
    expect(await operator.submit()).toMatchObject({ httpStatus: 200, versions: { targets: 2 } });
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
  }
});
