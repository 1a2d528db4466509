import assert from 'node:assert/strict';
import type { Outcome } from '../../fleet/outcome.ts';
import { type CohortStore, IDS_A_ROW } from '../../rollouts/cohort-store.ts';
import type { RolloutStats } from '../../rollouts/controller/state.ts';
import { recordOfUnknown, type RolloutRecord } from '../../rollouts/record.ts';
import type { StatusSources } from '../../rollouts/status.ts';
import { admission, AT, event, intake, member, newId, outcome, status } from './fleet-store.ts';
import type { OpenStores, Stores, StoresUnderTest } from './stores.ts';
import { type Test, withOpened } from './test.ts';

const [id, otherId] = ['00000000000000a1', '00000000000000a2'];
const DAY_MS = 86_400_000;

interface Wanted {
  id?: string;
  stage?: number;
  attempt?: number;
  state?: RolloutRecord['rollout']['state'];
}

const record = ({ id: wantedId = id, stage = 0, attempt = 1, state = 'active' }: Wanted = {}) => {
  const made = recordOfUnknown('camera', {
    id: wantedId,
    release: { counter: 1, version: '1.0.0', manifestSha256: 'a'.repeat(64) },
    createdAt: AT,
    attempt,
    state,
    match: {},
    cohort: { below: '8'.repeat(64) },
    offlineForMs: DAY_MS,
    maxDownBasisPoints: 2500,
  });
  return { ...made, controller: { ...made.controller, stage } };
};

const frozen = (ids: readonly string[], stage = 0, rolloutId = id) => ({ rolloutId, stage, ids });

async function enrol({ one, other }: StoresUnderTest, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, newId).sort();
  await Promise.all(
    ids.map((each, at) => (at % 2 === 0 ? one : other).fleetStore.admit(admission(member(each)))),
  );
  return ids;
}

/** Takes in that a device has reported about the rollout. */
async function say(
  { fleetStore }: Stores,
  deviceId: string,
  state: Outcome['state'],
  more: Partial<Outcome> = {},
): Promise<void> {
  const before = fleetStore.registry.status(deviceId);
  const after = status(deviceId, (before?.last.seq ?? 0) + 1);
  const outcomes = [{ rolloutId: id, deviceId, outcome: { ...outcome, state, ...more } }];
  assert.equal(await fleetStore.takeIn(intake({ statuses: [{ before, after }], outcomes })), 'taken');
}

const NOTHING_SEEN: StatusSources = {
  presence: { stateOf: () => 'untold' },
  progress: { get: () => undefined },
};

const pageOf = (store: CohortStore, nowMs = Date.parse(AT)) =>
  store.statusPage(store.record(id) ?? record(), { limit: 100, nowMs }, NOTHING_SEEN);

/** What every origin answers, one that starts now among them. */
async function agreed<T>(
  { one, other, restart }: StoresUnderTest,
  ask: (store: CohortStore) => Promise<T>,
): Promise<T> {
  const answer = await ask(one.cohortStore);
  for (const { cohortStore } of [other, await restart()]) assert.deepEqual(await ask(cohortStore), answer);
  return answer;
}

const stats = (store: CohortStore): Promise<RolloutStats | undefined> => store.stats(id);

/** The conformance suite of `CohortStore`. */
export function testCohortStore(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);
  testFreezing(check);
  testCounting(check);
  testReturning(check);
  testEnds(check);
}

type Check = ReturnType<typeof withOpened<StoresUnderTest>>;

function testFreezing(check: Check): void {
  check('has a record and the cohort that it froze both, or neither', async under => {
    const { one, other, restart } = under;
    const ids = await enrol(under, IDS_A_ROW + 1);
    await one.cohortStore.change({ records: [record(), record({ id: otherId })], frozen: frozen(ids) });
    await one.cohortStore.change({ frozen: frozen([], 0, otherId) });
    for (const { cohortStore } of [one, other, await restart()]) {
      assert.deepEqual(cohortStore.records(), [record({ id: otherId }), record()]);
      assert.deepEqual(cohortStore.record(id), record());
      assert.equal((await cohortStore.stats(id))?.joined, IDS_A_ROW + 1);
      assert.equal((await cohortStore.stats(otherId))?.members, 0);
      assert.equal(await cohortStore.stats('00000000000000a3'), undefined);
    }
  });

  check('lets devices in once the record says that their stage has begun', async under => {
    const { one, other } = under;
    const [a = '', b = '', c = ''] = await enrol(under, 3);
    const counts = async () => {
      const { members, joined } = (await agreed(under, stats)) ?? {};
      return [members, joined];
    };
    await one.cohortStore.change({ records: [record()], frozen: frozen([a]) });
    assert.deepEqual(await counts(), [1, 1]);
    await other.cohortStore.change({ frozen: frozen([b], 1) });
    assert.deepEqual(await counts(), [1, 1]);
    await other.cohortStore.change({ records: [record({ stage: 1 })] });
    assert.deepEqual(await counts(), [2, 1]);
    // A stage that was never begun.
    await one.cohortStore.change({ frozen: frozen([c], 2) });
    await one.cohortStore.change({ thawed: [{ rolloutId: id, stage: 2 }] });
    await one.cohortStore.change({ records: [record({ stage: 2 })] });
    assert.deepEqual(await counts(), [2, 0]);
  });

  check('says who would come in with a stage, and freezes nothing by that', async under => {
    const { one } = under;
    const ids = await enrol(under, 3);
    await one.cohortStore.change({ records: [record()], frozen: frozen(ids.slice(0, 1)) });
    const { rollout } = record();
    const ask = (store: CohortStore) => store.stageCohort(record(), rollout, 1, 0);
    const { cohort, joined } = await agreed(under, ask);
    assert.deepEqual(cohort, { below: null });
    assert.deepEqual(joined.sort(), ids.slice(1));
    assert.equal((await agreed(under, stats))?.members, 1);
  });

  check('takes the devices that a rollout reaches for its cohort where none was frozen', async under => {
    const ids = await enrol(under, 8);
    const whole = { ...record().rollout, cohort: { below: null } };
    await under.one.cohortStore.change({ records: [{ ...record(), rollout: whole }] });
    assert.equal((await agreed(under, stats))?.members, ids.length);
  });
}

function testCounting(check: Check): void {
  check('counts reports, revocations and attempts as of each commit', async under => {
    const { one, other } = under;
    const [a = '', b = '', late = ''] = await enrol(under, 3);
    await one.cohortStore.change({ records: [record()], frozen: frozen([a, b]) });
    // A question, and a report that comes while the cohort is read for it.
    await Promise.all([one.cohortStore.stats(id), say(other, a, 'completed'), other.cohortStore.stats(id)]);
    const { succeeded, pending } = (await agreed(under, stats)) ?? {};
    assert.deepEqual([succeeded, pending], [1, 1]);
    await say(one, late, 'completed');
    const failure = { code: 'healthFailed', message: '' };
    await say(other, b, 'failed', { failure, reason: failure });
    const failed = await agreed(under, stats);
    assert.deepEqual([failed?.failed, failed?.failedSites, failed?.lateSucceeded], [1, 1, 1]);
    const revoked = member(a, { revokedAt: AT });
    await other.fleetStore.changeMember(member(a), revoked, event(`device:${a}`));
    assert.equal((await agreed(under, stats))?.decommissioned, 1);
    // The second attempt: what was said about the first counts no more.
    await one.cohortStore.change({ records: [record({ attempt: 2 })] });
    const again = await agreed(under, stats);
    assert.deepEqual([again?.failed, again?.pending, again?.decommissioned], [0, 1, 1]);
    const { counts, total, figures } = await agreed(under, store => pageOf(store));
    assert.deepEqual([counts, total, figures?.members], [{ revoked: 1, pending: 2 }, 3, 2]);
  });

  check('marks devices that are past the deadline, until they report', async under => {
    const { one, other } = under;
    const [a = '', b = '', c = ''] = await enrol(under, 3);
    await one.cohortStore.change({ records: [record()], frozen: frozen([a, b, c]) });
    const nowMs = Date.parse(AT) + 30 * DAY_MS;
    for (const { cohortStore } of [one, other]) {
      await cohortStore.markOverdue(id, nowMs - 30 * DAY_MS, () => false);
      assert.equal((await cohortStore.stats(id))?.unreachable, 0);
      await cohortStore.markOverdue(id, nowMs, device => device === c);
      assert.equal((await cohortStore.stats(id))?.unreachable, 2);
      const { devices } = await pageOf(cohortStore, nowMs);
      assert.deepEqual(
        devices.map(({ overdue }) => overdue),
        ['unreachable', 'unreachable', undefined],
      );
    }
    await say(other, a, 'downloading');
    for (const { cohortStore } of [one, other]) {
      const { unreachable, running } = (await cohortStore.stats(id)) ?? {};
      assert.deepEqual([unreachable, running], [1, 1]);
    }
    // Marks outlast the begin of a stage.
    await one.cohortStore.change({ records: [record({ stage: 1 })] });
    assert.equal((await one.cohortStore.stats(id))?.unreachable, 1);
  });
}

function testReturning(check: Check): void {
  check('says how far devices are on the way back, and whom an ended rollout would concern', async under => {
    const { one, other } = under;
    const [a = '', b = '', late = ''] = await enrol(under, 3);
    await one.cohortStore.change({ records: [record()], frozen: frozen([a, b]) });
    const progress = (store: CohortStore) => store.rollbackProgress(id);
    for (const device of [a, b, late]) await say(one, device, 'completed');
    await one.cohortStore.change({ records: [record({ state: 'rollingBack' })] });
    const begun = await agreed(under, progress);
    assert.deepEqual(begun, { left: 3, lateLeft: 1, stuck: 0, returned: 0 });
    await say(other, a, 'rolledBack');
    await say(one, late, 'rolledBack');
    const further = await agreed(under, progress);
    assert.deepEqual(further, { left: 1, lateLeft: 0, stuck: 0, returned: 2 });
    const ended = record({ state: 'aborted' });
    await other.cohortStore.change({ records: [ended], thawed: [{ rolloutId: id }] });
    assert.equal(await agreed(under, progress), undefined);
    const { ids, stats: recounted } = await agreed(under, store => store.recount(ended));
    assert.ok([a, late].every(device => ids.includes(device)));
    assert.equal(recounted.members, ids.length);
  });
}

function testEnds(check: Check): void {
  check('deletes the cohort of an ended rollout, and what one was left behind of', async under => {
    const { one, other, restart } = under;
    const ids = await enrol(under, 4);
    // Where no cohort is stored, all are in: that shows what was deleted.
    const whole = (rolloutId: string): RolloutRecord => {
      const made = record({ id: rolloutId });
      return { ...made, rollout: { ...made.rollout, cohort: { below: null } } };
    };
    for (const rolloutId of [id, otherId])
      await one.cohortStore.change({
        records: [whole(rolloutId)],
        frozen: frozen(ids.slice(0, 1), 0, rolloutId),
      });
    await one.cohortStore.change({ records: [record({ state: 'completed' })], thawed: [{ rolloutId: id }] });
    assert.equal(await agreed(under, stats), undefined);
    await other.cohortStore.change({ records: [whole(id)] });
    assert.equal((await agreed(under, stats))?.members, 4);

    // Ended, its cohort left behind; and one that is being reopened.
    const ended = record({ id: otherId, state: 'completed' });
    const { rollout, controller } = whole(otherId);
    const next = { rollout, controller, change: { at: AT, by: 'ann', state: 'rollingBack' } };
    await one.cohortStore.change({ records: [{ ...ended, next }] });
    await other.cohortStore.sweep();
    await one.cohortStore.change({ records: [whole(otherId)] });
    assert.equal((await agreed(under, store => store.stats(otherId)))?.members, 1);
    await one.cohortStore.change({ records: [ended] });
    await other.cohortStore.sweep();
    await one.cohortStore.change({ records: [whole(otherId)] });
    assert.equal((await agreed(under, store => store.stats(otherId)))?.members, 4);
    await one.cohortStore.change({ forgotten: [id, otherId] });
    for (const { cohortStore } of [one, other, await restart()])
      assert.deepEqual([cohortStore.records(), await cohortStore.stats(id)], [[], undefined]);
  });
}
