import assert from 'node:assert/strict';
import { AuditChainCheck } from '@sitecast/shared/audit';
import type { AuditEvent, AuditLog } from '../../audit/audit.ts';
import type { FleetStore } from '../../fleet/fleet-store.ts';
import type { CohortStore } from '../../rollouts/cohort-store.ts';
import { recordOfUnknown, type RolloutRecord } from '../../rollouts/record.ts';
import type { StoredToken, TokenStore } from '../../tokens/token-store.ts';
import { type Test, withOpened } from './test.ts';

/** The stores of one origin. */
export interface Stores {
  audit: AuditLog;
  tokenStore: TokenStore;
  fleetStore: FleetStore;
  cohortStore: CohortStore;
}

/** The stores of two origins that run at the same time on the same data. */
export interface StoresUnderTest {
  one: Stores;
  other: Stores;
  /** Those of an origin that starts now. */
  restart: () => Promise<Stores>;
  close: () => Promise<void>;
}

/** Opens stores that hold nothing. */
export type OpenStores = () => Promise<StoresUnderTest>;

const event = (subject: string): AuditEvent => ({ by: 'ann', action: 'token.create', subject });

/** What every `AuditLog` keeps to, as tests. */
export function testAuditLog(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);

  check('makes one chain of what several origins record at once', async ({ one, other, restart }) => {
    const recording = Array.from({ length: 40 }, (_, at) =>
      (at % 2 === 0 ? one : other).audit.record(event(`first of ${at}`), event(`second of ${at}`)),
    );
    await Promise.all(recording);
    for (const { audit } of [one, other, await restart()]) {
      const { entries, after } = await audit.find(0, 1000);
      assert.equal(after, 80);
      const chain = new AuditChainCheck();
      for (const entry of entries) chain.take(entry);
      chain.end(audit.head);
      // Those of one call lie together.
      for (const [at, { subject }] of entries.entries())
        if (subject.startsWith('first'))
          assert.equal(entries[at + 1]?.subject, subject.replace('first', 'second'));
    }
  });

  check('finds what is wanted after an entry', async ({ one, other }) => {
    await one.audit.record(event('a'), event('b'), event('c'));
    const { entries, after } = await other.audit.find(1, 1, { by: 'ann' });
    assert.deepEqual([entries.map(({ subject }) => subject), after], [['b'], 2]);
    assert.deepEqual(await other.audit.find(0, 9, { by: 'bob' }), { entries: [], after: 3 });
  });
}

const token = (id: string, name: string): StoredToken => ({
  id,
  name,
  role: 'viewer',
  hash: 'a'.repeat(64),
  createdAt: '2030-01-01T00:00:00.000Z',
});

/** What every `TokenStore` keeps to, as tests. */
export function testTokenStore(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);
  const add = ({ tokenStore }: Stores, id: string, name: string) =>
    tokenStore.change(tokens => {
      if (tokens.some(known => known.name === name)) throw new Error(`${name} is taken`);
      return { add: token(id, name), event: event(id) };
    });

  check('shows each decision what all decisions before it have made', async ({ one, other, restart }) => {
    const results = await Promise.allSettled([
      add(one, '1', 'ci'),
      add(other, '2', 'ci'),
      add(one, '3', 'cd'),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
    for (const { tokenStore } of [one, other, await restart()])
      assert.deepEqual(tokenStore.tokens(), [token('1', 'ci'), token('3', 'cd')]);
    const { entries } = await other.audit.find(0, 9);
    assert.deepEqual(
      entries.map(({ subject }) => subject),
      ['1', '3'],
    );
  });

  check(
    'forgets a token that is revoked, with the entry that tells of it',
    async ({ one, other, restart }) => {
      await add(one, '1', 'ci');
      await other.tokenStore.change(() => ({ revoke: '1', event: event('revoked') }));
      for (const { tokenStore, audit } of [one, other, await restart()]) {
        assert.deepEqual(tokenStore.tokens(), []);
        assert.equal(audit.head.seq, 2);
      }
    },
  );
}

const MANY = 25_000;

const record = (id: string): RolloutRecord =>
  recordOfUnknown('camera', {
    id,
    release: { counter: 1, version: '1.0.0', manifestSha256: 'a'.repeat(64) },
    createdAt: '2030-01-01T00:00:00.000Z',
    attempt: 1,
    state: 'active',
    match: {},
    cohort: { below: null },
    offlineForMs: 86_400_000,
    maxDownBasisPoints: 2500,
  });

/** What every `CohortStore` keeps to, as tests. */
export function testCohortStore(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);
  const [one1, two2] = ['00000000000000a1', '00000000000000a2'];

  check('has a record and the cohort that it froze both, or neither', async ({ one, other, restart }) => {
    const ids = Array.from({ length: MANY }, (_, at) => `device ${at}`);
    await one.cohortStore.change({
      records: [record(one1), record(two2)],
      frozen: { rolloutId: one1, stage: 0, ids },
    });
    await one.cohortStore.change({ frozen: { rolloutId: one1, stage: 1, ids: [] } });
    for (const { cohortStore } of [one, other, await restart()]) {
      assert.deepEqual(await cohortStore.records(), [record(one1), record(two2)]);
      const rows = await cohortStore.cohort(one1);
      assert.deepEqual(
        rows.filter(({ stage }) => stage === 0).flatMap(row => row.ids),
        ids,
      );
      assert.deepEqual(rows.at(-1), { stage: 1, ids: [] });
      assert.deepEqual(await cohortStore.cohort(two2), []);
      assert.deepEqual(await cohortStore.frozenRollouts(), new Set([one1]));
    }
  });

  check('deletes the cohort of one stage, or of a whole rollout', async ({ one, restart }) => {
    for (const stage of [0, 1, 10])
      await one.cohortStore.change({ frozen: { rolloutId: one1, stage, ids: [`of ${stage}`] } });
    await one.cohortStore.change({
      frozen: { rolloutId: two2, stage: 1, ids: ['x'] },
      records: [record(two2)],
    });
    await one.cohortStore.change({ thawed: [{ rolloutId: one1, stage: 1 }] });
    assert.deepEqual(await one.cohortStore.cohort(one1), [
      { stage: 0, ids: ['of 0'] },
      { stage: 10, ids: ['of 10'] },
    ]);
    await one.cohortStore.change({ thawed: [{ rolloutId: one1 }], forgotten: [two2] });
    const { cohortStore } = await restart();
    assert.deepEqual(await cohortStore.frozenRollouts(), new Set([two2]));
    assert.deepEqual(await cohortStore.records(), []);
  });
}
