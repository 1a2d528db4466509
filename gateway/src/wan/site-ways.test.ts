import { parseRollouts, type RolloutsFile } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import { TestRepository } from '@sitecast/shared/trust/testing';
import { expect, it } from 'vitest';
import { verifySet } from '../mirror/mirror-set.ts';
import { SiteWays } from './site-ways.ts';

const FILE: RolloutsFile = { format: 'sitecast-rollouts-1', product: 'camera', rollouts: [], revoked: [] };
const ROLLOUT: RolloutsFile['rollouts'][number] = {
  id: '00112233445566aa',
  release: { counter: 2, version: '2.0.0', manifestSha256: 'a'.repeat(64) },
  state: 'active',
  match: {},
  cohort: { below: null },
  offlineForMs: 1,
  maxDownBasisPoints: 2500,
  attempt: 1,
  createdAt: '2029-01-01T00:00:00Z',
};

/** What a gateway has mirrored: one delta, and the index of the release that it leads from. */
async function mirrored(file: RolloutsFile) {
  const repository = await TestRepository.create();
  repository.delegate('targets', 'deltas', { paths: ['deltas/*'] });
  repository.addTarget('targets', 'releases/camera-1.caibx', 'an index');
  repository.addTarget('deltas', 'deltas/camera-2-from-1.recipe', 'a recipe');
  repository.addTarget('deltas', 'deltas/camera-2-from-1.caibx', 'an index of patches');
  await repository.publish('deltas');
  await repository.publishWithSnapshot('targets');
  const roles = ['timestamp', 'snapshot', 'targets', 'deltas'];
  const files = new Map(roles.map(role => [role, repository.bytesOf(role)]));
  const rollouts = new Map([['camera', parseRollouts(Buffer.from(JSON.stringify(file)))]]);
  return { ...verifySet(repository.bytesOf('root'), files), rollouts };
}

it('goes through the devices of the site once a second for all who ask, and never for a delta that is not listed', async () => {
  const set = await mirrored(FILE);
  let [looked, nowMs] = [0, 0];
  const ways = new SiteWays({
    set: () => set,
    devicesOf: () => {
      looked += 1;
      return [];
    },
    runningOf: () => undefined,
    local: async () => undefined,
    fetch: async () => new Uint8Array(),
    cache: { has: async () => false },
    now: () => nowMs,
  });
  const ask = (from: number) =>
    Promise.all(Array.from({ length: 1000 }, () => ways.wayOf({ product: 'camera', from, to: 2 })));
  expect(new Set(await ask(1))).toEqual(new Set(['deltas']));
  expect(looked).toBe(1);
  await ask(7);
  expect(looked).toBe(1);
  for (let times = 0; times < 100; times += 1) await ways.wayOf({ product: 'camera', from: 1, to: 2 });
  expect(looked).toBe(1);
  nowMs += 1001;
  await ask(1);
  expect(looked).toBe(2);
});

it('goes through what devices can do once a second, though each can do something else', async () => {
  const set = await mirrored({ ...FILE, rollouts: [ROLLOUT] });
  const devices = Array.from({ length: 100 }, (_, at) => assignmentFor(String(at)));
  let [looked, nowMs] = [0, 0];
  const ways = new SiteWays({
    set: () => set,
    devicesOf: () => devices,
    runningOf: id => ({
      counter: 1,
      takesSiteWay: true,
      ability: {
        get recipeFormats() {
          looked += 1;
          return [1];
        },
        encoders: [`encoder ${id}`],
        isSignedOnly: false,
      },
    }),
    local: async () => undefined,
    fetch: async () => new Uint8Array(),
    cache: { has: async () => false },
    now: () => nowMs,
  });
  const ask = () => ways.wayOf({ product: 'camera', from: 1, to: 2 });
  expect(await ask()).toBe('deltas');
  const once = looked;
  expect(once).toBeGreaterThanOrEqual(devices.length);
  for (let times = 0; times < 100; times += 1) await ask();
  expect(looked).toBe(once);
  nowMs += 1001;
  await ask();
  expect(looked).toBe(2 * once);
});
