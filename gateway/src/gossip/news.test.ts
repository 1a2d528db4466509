import { TestRepository } from '@sitecast/shared/trust/testing';
import { expect, it } from 'vitest';
import { type MirrorSet, verifySet } from '../mirror/mirror-set.ts';
import { memoryLog } from '../testing/world.ts';
import { type News, tellOfSets } from './news.ts';

function setOf(repository: TestRepository): MirrorSet {
  const roles = ['timestamp', 'snapshot', 'targets', 'rollouts'];
  const files = new Map(roles.map(role => [role, repository.bytesOf(role)]));
  return { ...verifySet(repository.bytesOf('root'), files), rollouts: new Map() };
}

it('tells what a timestamp has brought: its own renewal alone, where nothing else has changed', async () => {
  const repository = await TestRepository.create();
  repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] });
  await repository.publish('rollouts');
  await repository.publishWithSnapshot('targets');
  const told: string[][] = [];
  const tell: News['tell'] = async ({ timestamp, files }) => {
    expect(Buffer.from(timestamp).equals(repository.bytesOf('timestamp'))).toBe(true);
    told.push([...files.keys()].map(name => name.replace(/^\d+\./, '')).sort());
  };
  const news = {
    tell,
    addresses: () => [],
    connections: 0,
    dropped: 0,
    listen: () => {},
    close: async () => {},
  };
  const follow = tellOfSets(news, memoryLog());
  // At its start nobody needs to hear again what there is.
  follow(setOf(repository));
  await repository.publishWithSnapshot('rollouts');
  const changed = setOf(repository);
  follow(changed);
  follow(changed);
  await repository.publish('timestamp');
  follow(setOf(repository));
  // One that this gateway hasn't seen: others would tell it in other bytes.
  await repository.publishWithSnapshot('rollouts');
  await repository.publish('timestamp');
  follow(setOf(repository));
  expect(told).toEqual([[], ['rollouts.json', 'snapshot.json'], [], []]);
});
