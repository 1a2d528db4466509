import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { debianTool } from './testbed/debian-tools.ts';
import { type Build, type DeltaDevice, DeltaFleet } from './testbed/delta-fleet.ts';
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
    const status = await device.status();
    expect(status?.peers?.dropped ?? 0).toBe(0);
    expect(status?.heard).toBeDefined();
  }
  expect(fresh.complaints).toEqual([]);
}

const asksFor = ({ asked }: DeltaDevice, end: string): boolean => asked.some(path => path.endsWith(end));

it('a released agent beside a new one takes chunks, the new one patches', async () => {
  await fleet.publishWithDelta(2);
  forget();
  await fleet.rollOut(2);
  for (const device of [fresh, old]) expect(await device.holds(2)).toBe(true);
  expect(asksFor(fresh, '.recipe')).toBe(true);
  expect(old.asked.filter(path => path.includes('/deltas/'))).toEqual([]);
  const ofImage = await fleet.chunkIdsOf(2);
  // One chunk for each window's patch.
  expect(fresh.chunks.filter(id => !ofImage.has(id)).length).toBeGreaterThan(0);
  expect(fresh.chunks.filter(id => ofImage.has(id))).toEqual([]);
  await expectPeace();
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
