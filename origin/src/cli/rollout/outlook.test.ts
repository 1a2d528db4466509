import { expect, it } from 'vitest';
import type { RolloutStatus } from '../origin/fleet-api.ts';
import { describeNext, endingOf } from './outlook.ts';

const status: RolloutStatus = {
  id: '1f0c9a5be6d27788',
  product: 'camera',
  release: { counter: 2, version: '2.0.0' },
  state: 'rollingBack',
  match: {},
  attempt: 1,
  createdAt: '',
  startedBy: 'admin',
  plan: {
    stages: [{ basisPoints: 10_000, soakMs: 0 }],
    maxFailuresBasisPoints: 0,
    minFailures: 1,
    onFailure: 'pause',
    silentAfterMs: 0,
    lastStageSoaks: false,
  },
  stage: 0,
  stageStartedAt: '',
  offlineForMs: 0,
  maxDownBasisPoints: 2500,
  changes: [],
  counts: {},
  total: 10,
  acts: [],
  figures: {
    members: 10,
    sites: 1,
    joined: 10,
    wellJoined: 0,
    well: 0,
    failed: 0,
    failedSites: 0,
    blocked: 0,
    returned: 3,
    running: 0,
    waiting: 6,
    pending: 1,
    gone: 0,
    silent: 0,
    unreachable: 0,
    late: 0,
  },
  failures: [],
  names: {},
  devices: [],
  turns: [],
};
const sentBack = (back: NonNullable<RolloutStatus['back']>): RolloutStatus => ({ ...status, back });

it('watches a rollback until no device is left that can roll back', () => {
  const waiting = sentBack({ left: 7, lateLeft: 3, stuck: 0, returned: 3 });
  expect(endingOf(waiting)).toBeUndefined();
  expect(describeNext(waiting)[0]).toContain('next: 7 devices still to go back, 3 of them latecomers; ');
  const over = sentBack({ left: 0, lateLeft: 0, stuck: 2, returned: 8 });
  expect(endingOf(over)).toMatchObject({
    isGood: false,
    text: expect.stringContaining('8 of its devices went back; 2 could not'),
  });
  expect(describeNext(over)).toEqual([
    expect.stringContaining('no device known that is still to go back'),
    expect.stringContaining('2 devices could not: '),
  ]);
});

it('reads the answers of an origin of 0.1.0', () => {
  expect(endingOf(status)).toMatchObject({ text: expect.stringContaining('3 of its devices went back') });
});

it('waits for the decision that follows the last report', () => {
  const { figures } = status;
  if (!figures) throw new Error('no figures');
  const failed = { ...figures, returned: 0, waiting: 0, pending: 0, failed: 1, well: 9 };
  const active: RolloutStatus = { ...status, state: 'active', figures: failed };
  expect(endingOf({ ...active, deciding: true })).toBeUndefined();
  expect(endingOf(active)?.text).toContain('does not go on by itself');
});
