import { until } from '@sitecast/shared/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { type CommandResult, startSitecast } from './testing/command.ts';
import { testMaker } from './testing/deltas.ts';
import { FleetHarness } from './testing/fleet-harness.ts';
import { imageOf } from './testing/operator.ts';
import { randomChunks } from './testing/setup.ts';

// What operators read and type about deltas.

let harness: FleetHarness;
let server: RunningServer;
beforeEach(async () => {
  harness = await FleetHarness.open(path => ({
    ...testDisk(path),
    makesDeltas: true,
    deltaMaker: testMaker(),
  }));
  server = await listen(harness.origin.app, { host: '127.0.0.1', port: 0 });
  await harness.operator.publishOk(
    'camera',
    imageOf(...harness.image.chunks.slice(0, 1), ...randomChunks(3)),
  );
});
afterEach(async () => {
  await harness.origin.deltas.stop();
  await server.close(0);
  await harness.close();
});

const sitecast = (...args: string[]): Promise<CommandResult> =>
  startSitecast([...args, '--origin', server.url, '--token', harness.origin.adminToken]).done;

async function device(deltas: string, counter = 1): Promise<void> {
  const member = await harness.device('north');
  const booted = { slot: 'A' as const, release: { counter, version: `${counter}.0.0` } };
  await member.report({ state: 'idle', booted, inventory: { product: 'camera', ...(deltas && { deltas }) } });
}

const DELTAS = ['release', 'deltas', 'camera'];

it('a typing error in the name of the product is no success, and no empty list without a word', async () => {
  for (const command of [
    ['release', 'deltas'],
    ['rollout', 'list'],
  ]) {
    const { exitCode, stdout, stderr } = await sitecast(...command, 'camrea');
    expect({ exitCode, stdout }).toEqual({ exitCode: 3, stdout: '' });
    expect(stderr).toContain('Is camera meant?');
  }
  expect(await sitecast('rollout', 'list', 'camera')).toMatchObject({ exitCode: 0 });
  const booted = { slot: 'A' as const, release: { counter: 1, version: '1.0.0' } };
  await (await harness.device()).report({ state: 'idle', booted, inventory: { product: 'camera' } });
  const list = await sitecast('device', 'list', '--product', 'camrea');
  expect(list.stdout).toBe('no device fits: nobody in the fleet has the product camrea (is it camera?)\n');
});

it('--remove takes away just what is named, and says what follows', async () => {
  harness.origin.deltas.start();
  expect(await sitecast(...DELTAS, '2.0.0', '--from', '1.0.0')).toMatchObject({ exitCode: 0 });
  await until('the delta', () => harness.origin.deltas.list()[0]?.state === 'published');
  const bare = await sitecast(...DELTAS, '2.0.0', '--remove');
  expect(bare).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(/--from VERSION\), or say --all/),
  });
  const slip = await sitecast(...DELTAS, '2.0.0', '--remove', '--from', '1.0');
  expect(slip).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('there are those from 1.0.0') });
  expect(await sitecast(...DELTAS, '2.0.0', '--all')).toMatchObject({ exitCode: 2 });
  expect(harness.origin.deltas.list()).toMatchObject([{ state: 'published' }]);

  const removed = await sitecast(...DELTAS, '2.0.0', '--remove', '--from', '1.0.0');
  expect(removed).toMatchObject({
    exitCode: 0,
    stdout:
      'removed the delta from 1.0.0 to camera 2.0.0: devices that have not begun with it take chunks instead\n',
    stderr: expect.stringContaining('sitecast release deltas camera 2.0.0 --from 1.0.0'),
  });
  expect((await sitecast(...DELTAS)).stdout).toMatch(/1\.0\.0 -> 2\.0\.0 {2}removed .* test removed it/);
  expect(await sitecast(...DELTAS, '2.0.0', '--remove', '--all')).toMatchObject({ exitCode: 3 });
  const unversioned = await sitecast(...DELTAS, '--remove', '--all');
  expect(unversioned).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('VERSION --remove') });
});

it('--remove of a delta that is not made yet ends its making, and claims no more', async () => {
  expect(await sitecast(...DELTAS, '2.0.0', '--from', '1.0.0')).toMatchObject({ exitCode: 0 });
  expect(harness.origin.deltas.list()).toMatchObject([{ state: 'waiting' }]);
  expect(await sitecast(...DELTAS, '2.0.0', '--remove', '--all')).toMatchObject({
    exitCode: 0,
    stdout: 'the delta from 1.0.0 to camera 2.0.0 is no longer made: devices take chunks\n',
  });
});

it('a dry run and a start tell who waits for deltas; costs tell which devices fetch more, and why', async () => {
  // Long indexes, of which a recipe saves most.
  const base = imageOf(...randomChunks(300, 200));
  await harness.operator.publishOk('camera', base);
  await harness.operator.publishOk('camera', imageOf(...base.chunks.slice(3), ...randomChunks(3, 200)));
  for (const ability of ['recipe-1', 'recipe-1', '', 'recipe-1 signed-only']) await device(ability, 3);
  const start = ['rollout', 'start', 'camera', '4.0.0', '--all-at-once'];
  const waits =
    /devices with --max-bytes and sites with --wan-rate wait for theirs until 2030-01-01T02:00:00/;
  const dry = await sitecast(...start, '--dry-run');
  expect(dry.stdout).toMatch(/from 3\.0\.0, 4 devices: about .* a device, by chunks/);
  // The clock of the harness lies ahead, so this time isn't over.
  expect(dry.stdout).toMatch(waits);
  // The origin decides after the start.
  expect(dry.stdout).toContain('the origin may make some');
  const started = await sitecast(...start);
  expect(started.stderr).toMatch(waits);
  harness.origin.deltas.start();
  await harness.origin.deltas.tend();
  await until('the delta', () => harness.origin.deltas.list()[0]?.state === 'published');
  const { stdout } = await sitecast(...DELTAS, '4.0.0');
  expect(stdout).toMatch(/from 3\.0\.0, 4 devices: [^ ]+ KiB a device, by a delta/);
  expect(stdout).toContain('1 of them uses no deltas');
  expect(stdout).toContain('1 of them takes only deltas that release keys have signed');
});

it('devices that have not said what they run count for their sites', async () => {
  await device('recipe-1');
  await harness.device('south');
  const { cost } = JSON.parse((await sitecast(...DELTAS, '2.0.0', '--json')).stdout);
  expect(cost).toMatchObject({
    unknown: 1,
    sites: { count: 2, mostBytes: cost.imageBytes, isEstimate: true },
  });
});
