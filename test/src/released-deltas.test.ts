import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { debianTool } from './testbed/debian-tools.ts';
import { type Build, type DeltaDevice, DeltaFleet, SITE } from './testbed/delta-fleet.ts';
import { unpackReleased } from './testbed/released.ts';

// Deltas where some machines run the released build (commit 51397eb), which knows none: real processes from the publisher to the slot.
// One fleet for all tests: each goes on from the release that the one before has left.

const casync = debianTool('casync');
const REGIONS = 4;

let fleet: DeltaFleet;
let released: Build;
/** Two devices of one swarm: an agent of this build, and a released one. */
let fresh: DeltaDevice;
let old: DeltaDevice;

beforeAll(async () => {
  fleet = await DeltaFleet.open(REGIONS);
  released = { bin: await unpackReleased(fleet.fleet.testbed.path('released')) };
  const peers = ['--peer-listen', '127.0.0.1:0'];
  [fresh, old] = [await fleet.device('fresh', ...peers), await fleet.device('old', ...peers)];
  fresh.start();
  old.start(released);
  await fleet.fleet.testbed.until(
    async () => (await fresh.status()) !== undefined && (await old.status()) !== undefined,
    'both agents to begin',
  );
  await fleet.rollOut(1);
});
afterAll(async () => {
  fresh.close();
  old.close();
  await fleet.close();
});

function forget(): void {
  for (const device of [fresh, old]) device.forget();
}

/** Nobody holds anything against anybody. */
async function expectPeace(): Promise<void> {
  for (const device of [fresh, old]) {
    expect(await device.shown()).not.toContain('SITECAST_SOURCE');
    await fleet.fleet.testbed.until(async () => (await device.status())?.heard !== undefined, 'its status');
    expect((await device.status())?.peers?.dropped ?? 0).toBe(0);
  }
  expect(fresh.complaints).toEqual([]);
}

const asksFor = ({ asked }: DeltaDevice, end: string): boolean => asked.some(path => path.endsWith(end));

const idOf = (path: string): string | undefined => /\/([0-9a-f]{64})\.cacnk$/.exec(path)?.[1];

/** What the new agent has asked its gateway for since `forget`: chunks of patches, and chunks of the release's image. */
async function askedFor(number: number): Promise<{ patches: string[]; ofImage: string[] }> {
  const ids = await fleet.chunkIdsOf(number);
  const { chunks } = fresh;
  return { patches: chunks.filter(id => !ids.has(id)), ofImage: chunks.filter(id => ids.has(id)) };
}

async function expectUpdatedByDelta(number: number): Promise<void> {
  for (const device of [fresh, old]) expect(await device.holds(number)).toBe(true);
  expect(asksFor(fresh, '.recipe')).toBe(true);
  const { patches, ofImage } = await askedFor(number);
  // One chunk for each window's patch.
  expect(patches.length).toBeGreaterThan(0);
  expect(ofImage).toEqual([]);
  await expectPeace();
}

async function restartGateway(build?: Build): Promise<void> {
  const site = fleet.fleet.site(SITE);
  await fleet.fleet.killGateway(site);
  await fleet.fleet.restartGateway(site, build);
}

/** When the new agent logged it, ms. */
const loggedAt = (text: string): number => {
  const line = fresh.log.split('\n').find(said => said.includes(text)) ?? '{}';
  return Date.parse(JSON.parse(line).time);
};

it('a released agent beside a new one takes chunks, the new one patches', async () => {
  await fleet.publishWithDelta(2);
  forget();
  await fleet.rollOut(2);
  await expectUpdatedByDelta(2);
  expect(old.asked.filter(path => path.includes('/deltas/'))).toEqual([]);
});

it.skipIf(casync.isMissing)(
  `casync reads store and index of a release that has deltas${casync.why}`,
  async () => {
    const { directory } = fleet.fleet.testbed;
    const store = `--store=${fleet.originUrl}/chunks`;
    await promisify(execFile)('casync', ['extract', store, await fleet.indexPath(2), 'back'], {
      cwd: directory,
    });
    expect((await readFile(fleet.fleet.testbed.path('back'))).equals(fleet.imageOf(2))).toBe(true);
  },
);

it('a released gateway hands out recipe, index and patches as files like any other', async () => {
  await restartGateway(released);
  await fleet.publishWithDelta(3);
  forget();
  await fleet.rollOut(3);
  await expectUpdatedByDelta(3);
});

it('a released gateway forgets patches when it starts again: the new agent goes on by chunks within seconds', async () => {
  await fleet.publishWithDelta(4);
  forget();
  const ids = await fleet.chunkIdsOf(4);
  let isRestarted: Promise<void> | undefined;
  let restartedAt = Number.NaN;
  fresh.rule = async ({ path }): Promise<'pass'> => {
    const id = idOf(path);
    if (id !== undefined && !ids.has(id)) {
      isRestarted ??= restartGateway(released).then(() => {
        restartedAt = Date.now();
      });
      await isRestarted;
    }
    return 'pass';
  };
  await fleet.rollOut(4);
  fresh.rule = () => 'pass';
  for (const device of [fresh, old]) expect(await device.holds(4)).toBe(true);
  expect((await askedFor(4)).patches.length).toBeGreaterThan(0);
  expect(fresh.log).toMatch(
    /the patches can't be had: nobody hands out chunk [0-9a-f]{64}: \S+ has no chunk/,
  );
  expect(await fresh.shown()).toContain('SITECAST_PATCHES_UNAVAILABLE');
  // Far sooner than where no chunk comes and nobody says why, which takes a minute.
  const waitedMs = loggedAt('goes on without its delta') - restartedAt;
  expect(waitedMs).toBeGreaterThanOrEqual(0);
  expect(waitedMs).toBeLessThan(15_000);
  await expectPeace();
});

it('a gateway that is upgraded from the released build hands out the patches of the next release', async () => {
  await restartGateway();
  await fleet.publishWithDelta(5);
  forget();
  await fleet.rollOut(5);
  await expectUpdatedByDelta(5);
});

it('the released agent finishes by chunks what the new one has begun by a delta, and the new one goes on from there', async () => {
  await fleet.publishWithDelta(6);
  forget();
  const ids = await fleet.chunkIdsOf(6);
  let letGo: () => void = () => {};
  const isKilled = new Promise<'pass'>(resolve => (letGo = () => resolve('pass')));
  let patches = 0;
  fresh.rule = ({ path }) => {
    const id = idOf(path);
    if (id === undefined || ids.has(id)) return 'pass';
    patches += 1;
    return patches > 2 ? isKilled : 'pass';
  };
  const rollout = await fleet.start(6);
  await fleet.fleet.testbed.until(
    async () => (await fresh.files('patches')).length >= 1,
    'a patch to be kept',
  );
  await fresh.stop('SIGKILL');
  const written = ['patches', 'spending.json', expect.stringMatching(/^slot-[ab]\.caibx$/)];
  expect(await fresh.files('.')).toEqual(expect.arrayContaining(written));
  fresh.rule = () => 'pass';
  letGo();
  forget();
  fresh.start(released);
  await fleet.untilCompleted(rollout);
  for (const device of [fresh, old]) expect(await device.holds(6)).toBe(true);
  expect(fresh.asked.filter(path => path.includes('/deltas/'))).toEqual([]);
  expect((await askedFor(6)).ofImage.length).toBeGreaterThan(0);
  await expectPeace();

  await fresh.stop();
  fresh.start();
  await fleet.publishWithDelta(7);
  forget();
  await fleet.rollOut(7);
  await expectUpdatedByDelta(7);
  expect(await fresh.files('patches')).toEqual([]);
});
