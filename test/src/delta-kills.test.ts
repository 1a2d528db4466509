import { setTimeout as sleep } from 'node:timers/promises';
import { open } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type DeltaDevice, DeltaFleet } from './testbed/delta-fleet.ts';

// A device is killed again and again while it makes an image by a delta: real processes, and what it asks its gateway for is counted.

const REGIONS = 12;

let fleet: DeltaFleet;
let device: DeltaDevice;

beforeEach(async () => {
  fleet = await DeltaFleet.open(REGIONS);
  device = await fleet.device('killed', '--no-peers', '--concurrency', '1');
  device.start();
  await fleet.rollOut(1);
  await fleet.publishWithDelta(2);
});
afterEach(async () => {
  device.close();
  await fleet.close();
});

/** Windows that the slot holds already, each told by a byte range that is new in it. */
async function windowsMade(): Promise<number> {
  const image = fleet.imageOf(2);
  const slot = await open(device.path('a.img'));
  try {
    let made = 0;
    const piece = Buffer.alloc(64);
    for (let at = 0; at < image.length; at += image.length / REGIONS) {
      const { bytesRead } = await slot.read(piece, 0, piece.length, at);
      if (bytesRead === piece.length && image.subarray(at, at + piece.length).equals(piece)) made += 1;
    }
    return made;
  } finally {
    await slot.close();
  }
}

it('fetches no patch again that it has kept, whenever it is killed, and makes the image', async () => {
  const ofImage = await fleet.chunkIdsOf(2);
  const patchesAsked = (): string[] => device.chunks.filter(id => !ofImage.has(id));
  /** Patches that lay in the data directory when the device was killed, by name. */
  const kept = new Set<string>();
  const again = new Set<string>();
  let before = 0;
  const kill = async (): Promise<void> => {
    await device.stop('SIGKILL');
    for (const id of patchesAsked().slice(before)) if (kept.has(id)) again.add(id);
    for (const name of await device.files('patches')) if (/^[0-9a-f]{64}$/.test(name)) kept.add(name);
    before = patchesAsked().length;
  };
  device.forget();
  const rollout = await fleet.start(2);

  // While patches come in: one more each time, and the next one is held up.
  for (const most of [2, 5, 8]) {
    let letGo: () => void = () => {};
    const isKilled = new Promise<{ status: number; body: unknown }>(resolve => {
      letGo = () => resolve({ status: 503, body: {} });
    });
    const asked = new Set<string>();
    device.rule = ({ path }) => {
      const id = /([0-9a-f]{64})\.cacnk$/.exec(path)?.[1];
      if (id === undefined || ofImage.has(id)) return 'pass';
      asked.add(id);
      return kept.size + asked.size > most ? isKilled : 'pass';
    };
    await fleet.fleet.testbed.until(
      async () => (await device.files('patches')).length >= most,
      'patches to be kept',
    );
    await kill();
    letGo();
    device.rule = () => 'pass';
    device.start();
  }

  // While windows are made, or later where the machine is slow to look. Each start but the first makes one durable at the least: when the
  // second after that begins, the first one is. Two deaths in a row that made nothing end a delta.
  let atStart = 0;
  for (const most of [1, 3, 6]) {
    const wanted = most === 1 ? 1 : Math.max(most, atStart + 2);
    if (wanted >= REGIONS) break;
    await fleet.fleet.testbed.until(async () => {
      if ((await windowsMade()) < wanted) return sleep(1, false);
      await device.stop('SIGKILL');
      return true;
    }, `${wanted} windows`);
    await kill();
    atStart = await windowsMade();
    device.start();
  }
  await fleet.untilCompleted(rollout);
  expect(await device.holds(2)).toBe(true);
  for (const id of patchesAsked().slice(before)) if (kept.has(id)) again.add(id);
  expect([...again]).toEqual([]);
  expect(kept.size).toBeGreaterThanOrEqual(8);
  // Of the chunks that windows give none was fetched.
  expect(device.chunks.filter(id => ofImage.has(id))).toEqual([]);
  expect(await device.files('patches')).toEqual([]);
});
