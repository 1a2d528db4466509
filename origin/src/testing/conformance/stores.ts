import assert from 'node:assert/strict';
import { AuditChainCheck } from '@sitecast/shared/audit';
import type { AuditEvent, AuditLog } from '../../audit/audit.ts';
import type { FleetStore } from '../../fleet/fleet-store.ts';
import type { CohortStore } from '../../rollouts/cohort-store.ts';
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
  /** The stores of an origin that starts now. */
  restart: () => Promise<Stores>;
  close: () => Promise<void>;
}

/** Opens empty stores. */
export type OpenStores = () => Promise<StoresUnderTest>;

const event = (subject: string): AuditEvent => ({ by: 'ann', action: 'token.create', subject });

/** The conformance suite of `AuditLog`. */
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
      // The entries of one call are adjacent.
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

/** The conformance suite of `TokenStore`. */
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
