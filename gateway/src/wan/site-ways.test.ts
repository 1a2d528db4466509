import { parseRollouts } from '@sitecast/shared/fleet';
import { TestRepository } from '@sitecast/shared/trust/testing';
import { expect, it } from 'vitest';
import { verifySet } from '../mirror/mirror-set.ts';
import { SiteWays } from './site-ways.ts';

const FILE = { format: 'sitecast-rollouts-1', product: 'camera', rollouts: [], revoked: [] };

it('goes through the devices of the site once a second for all who ask, and never for a delta that is not listed', async () => {
  const repository = await TestRepository.create();
  repository.delegate('targets', 'deltas', { paths: ['deltas/*'] });
  repository.addTarget('deltas', 'deltas/camera-2-from-1.recipe', 'a recipe');
  await repository.publish('deltas');
  await repository.publishWithSnapshot('targets');
  const roles = ['timestamp', 'snapshot', 'targets', 'deltas'];
  const files = new Map(roles.map(role => [role, repository.bytesOf(role)]));
  const rollouts = new Map([['camera', parseRollouts(Buffer.from(JSON.stringify(FILE)))]]);
  const set = { ...verifySet(repository.bytesOf('root'), files), rollouts };
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
