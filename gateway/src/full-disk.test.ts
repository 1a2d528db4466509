import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chunkPath } from '@sitecast/shared/content';
import { afterAll, afterEach, expect, it } from 'vitest';
import {
  removeTemporaryDirectories,
  temporaryDirectory,
  TestDevice,
  GatewayHarness,
  until,
} from './testing/harness.ts';

const harness = new GatewayHarness();
const mounted: string[] = [];
afterEach(async () => {
  await harness.closeAll();
  for (const directory of mounted.splice(0)) execFileSync('umount', [directory]);
});
afterAll(removeTemporaryDirectories);

/** A small disk of its own. It skips the test, with the reason, where this user may not mount one. */
async function smallDisk(context: { skip(note: string): void }, mebibytes: number): Promise<string> {
  const directory = await temporaryDirectory();
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', directory], {
      stdio: 'ignore',
    });
  } catch {
    // Only root in a namespace of its own may mount.
    context.skip('no tmpfs can be mounted here');
  }
  mounted.push(directory);
  return directory;
}

/** Fills a disk up to this much free space. */
async function fill(disk: string, freeBytes: number, name = 'filler'): Promise<string> {
  const { bavail, bsize } = await statfs(disk);
  const path = join(disk, name);
  await writeFile(path, Buffer.alloc(Math.max(0, bavail * bsize - freeBytes)));
  return path;
}

it('serves without caching when the disk is full, and caches again when there is room', async context => {
  const disk = await smallDisk(context, 24);
  const { origin, ids } = await harness.originWith(randomBytes(40 * 16_384));
  let nowMs = Date.now();
  const gateway = await harness.gateway(
    origin,
    { data: join(disk, 'data'), memoryBytes: 0 },
    { now: () => nowMs },
  );
  const filler = await fill(disk, 256 * 1024);
  for (const id of ids) {
    const { status, body } = await gateway.get(`chunks/${chunkPath(id)}`);
    expect([status, body.equals(origin.fileAt(`chunks/${chunkPath(id)}`))]).toEqual([200, true]);
  }
  expect(await gateway.metric('sitecast_cache_full')).toBe(1);
  expect(await gateway.metric('sitecast_cache_chunks')).toBeLessThan(40);
  expect(gateway.log.lines.some(({ message }) => message.includes('served without being cached'))).toBe(true);

  await rm(filler);
  await until(async () => {
    nowMs += 11_000;
    for (const id of ids) await gateway.get(`chunks/${chunkPath(id)}`);
    return (await gateway.metric('sitecast_cache_chunks')) === ids.length;
  }, 'the cache');
  expect(await gateway.metric('sitecast_cache_full')).toBe(0);
});

it('refuses reports that it cannot store, loses none of those it has, and accepts more when there is room', async context => {
  const disk = await smallDisk(context, 24);
  const { origin } = await harness.originWith(Buffer.alloc(20_000, 'x'));
  const gateway = await harness.gateway(origin, { data: join(disk, 'data') });
  await origin.close();
  const device = new TestDevice();
  const url = `${gateway.url}/site/v1/reports`;
  const filler = await fill(disk, 64 * 1024);
  let kept = 0;
  let refused: { status: number; json: object } | undefined;
  while (refused === undefined && kept < 400) {
    const reports = [await device.report({ reason: { code: 'x', message: 'y'.repeat(1000) } })];
    const answer = await device.post(url, { reports });
    if (answer.status === 202) kept += 1;
    else refused = answer;
  }
  expect(refused).toMatchObject({ status: 507, json: { code: 'SITECAST_NO_SPACE' } });
  expect(await gateway.metric('sitecast_outbox_reports')).toBe(kept);
  expect((await gateway.get('metadata/timestamp.json')).status).toBe(200);
  await fill(disk, 0, 'rest');
  const notReady = await gateway.get('readyz');
  expect([notReady.status, notReady.body.toString()]).toEqual([
    503,
    expect.stringContaining('the disk of the gateway is full: 0 B are free'),
  ]);

  await rm(join(disk, 'rest'));
  await rm(filler);
  await until(() => gateway.isReady(), 'readiness');
  await until(
    async () => (await device.post(url, { reports: [await device.report()] })).status === 202,
    'room for reports',
  );
  await origin.listen();
  await until(() => origin.records.reports.length > kept, 'the reports to arrive');
});
