import { TestRepository } from '@sitecast/shared/trust/testing';
import { expect, it } from 'vitest';
import { type MirrorSet, verifySet } from '../mirror/mirror-set.ts';
import { memoryLog } from '../testing/harness.ts';
import { announceSets, type FleetNetwork } from './announcements.ts';

function setOf(repository: TestRepository): MirrorSet {
  const roles = ['timestamp', 'snapshot', 'targets', 'rollouts'];
  const files = new Map(roles.map(role => [role, repository.bytesOf(role)]));
  return { ...verifySet(repository.bytesOf('root'), files), rollouts: new Map() };
}

it('announces what comes with a timestamp: only the timestamp, where nothing else has changed', async () => {
  const repository = await TestRepository.create();
  repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] });
  await repository.publish('rollouts');
  await repository.publishWithSnapshot('targets');
  const announced: string[][] = [];
  const announce: FleetNetwork['announce'] = async ({ timestamp, files }) => {
    expect(Buffer.from(timestamp).equals(repository.bytesOf('timestamp'))).toBe(true);
    announced.push([...files.keys()].map(name => name.replace(/^\d+\./, '')).sort());
  };
  const follow = announceSets({ announce }, memoryLog());
  // At its start it announces nothing, because other gateways have the set already.
  follow(setOf(repository));
  await repository.publishWithSnapshot('rollouts');
  const changed = setOf(repository);
  follow(changed);
  follow(changed);
  await repository.publish('timestamp');
  follow(setOf(repository));
  // This gateway has missed a version, so its announcement would differ from those of the others.
  await repository.publishWithSnapshot('rollouts');
  await repository.publish('timestamp');
  follow(setOf(repository));
  expect(announced).toEqual([[], ['rollouts.json', 'snapshot.json'], [], []]);
});
