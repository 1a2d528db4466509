import assert from 'node:assert/strict';
import { AuditChainCheck } from '@sitecast/shared/audit';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import type { AuditEvent } from '../../audit/audit.ts';
import type { Admission, Intake, StoredJoinToken } from '../../fleet/fleet-store.ts';
import type { Member } from '../../fleet/member.ts';
import type { Outcome } from '../../fleet/outcome.ts';
import { keptBytesOf, type Status } from '../../fleet/status.ts';
import type { OpenStores, Stores } from './stores.ts';
import { type Test, withOpened } from './test.ts';

export const AT = '2030-01-01T00:00:00.000Z';

export const newId = (): string => new Identity(KeyPair.generate()).id;
const [a, b, c, d, e, old, successor, rival] = [
  newId(),
  newId(),
  newId(),
  newId(),
  newId(),
  newId(),
  newId(),
  newId(),
];

export const member = (id: string, more: Partial<Member> = {}): Member => ({
  id,
  kind: 'device',
  product: 'camera',
  hardware: 'rpi4',
  site: 'north',
  tags: {},
  serial: 1,
  enrolledAt: AT,
  changedAt: AT,
  letInBy: { operator: 'ann' },
  ...more,
});

export const event = (subject: string): AuditEvent => ({ by: 'ann', action: 'device.change', subject });

export const admission = (admitted: Member, more: Partial<Admission> = {}): Admission => ({
  member: admitted,
  events: [event(`device:${admitted.id}`)],
  ...more,
});

const joinToken = (id: string, uses: number): StoredJoinToken => ({
  id,
  publicKey: 'a'.repeat(64),
  kind: 'device',
  uses,
  used: 0,
  createdAt: AT,
  createdBy: 'ann',
  expiresAt: '2031-01-01T00:00:00.000Z',
});

export const status = (id: string, seq: number): Status => ({
  id,
  chains: [{ epoch: 'e1', seq, head: 'f', firstAt: AT, lastAt: AT, begunAt: AT, receivedAt: AT }],
  last: { state: 'idle', epoch: 'e1', seq, at: AT, receivedAt: AT, timestampVersion: 1 },
  anomalies: [],
  returns: 0,
});

export const outcome: Outcome = { attempt: 1, state: 'downloading', at: AT, receivedAt: AT, startedAt: AT };
const report = (text: string) => ({ envelope: { text }, sha256: text, receivedAt: AT });

export const intake = (more: Partial<Intake>): Intake => ({
  statuses: [],
  reports: [],
  droppedReports: [],
  outcomes: [],
  inventories: [],
  events: [],
  ...more,
});

/** The conformance suite of `FleetStore`. */
export function testFleetStore(test: Test, open: OpenStores): void {
  testAdmissions(test, open);
  testChanges(test, open);
  testJoinTokens(test, open);
  testReports(test, open);
}

function testAdmissions(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);

  check('lets a newcomer in once, whichever origin it asks', async ({ one, other, restart }) => {
    const [first, second] = [member(a, { site: 'north' }), member(a, { site: 'south' })];
    const outcomes = await Promise.all([
      one.fleetStore.admit(admission(first)),
      other.fleetStore.admit(admission(second)),
    ]);
    assert.deepEqual(outcomes, [{ outcome: 'admitted' }, { outcome: 'known', member: first }]);
    for (const stores of [one, other, await restart()])
      assert.deepEqual(stores.fleetStore.registry.member(a), first);
    assert.deepEqual(await subjects(one), [`device:${a}`]);
  });

  check('gives a name to one member at a time', async ({ one, other }) => {
    const outcomes = await Promise.all([
      one.fleetStore.admit(admission(member(a, { name: 'Cam-1' }))),
      other.fleetStore.admit(admission(member(b, { name: 'cam-1' }))),
    ]);
    const bearer = member(a, { name: 'Cam-1' });
    assert.deepEqual(outcomes, [{ outcome: 'admitted' }, { outcome: 'nameTaken', bearer }]);
    await other.fleetStore.admit(admission(member(b)));
    const named = member(b, { name: 'CAM-1', serial: 2 });
    const taken = await other.fleetStore.changeMember(member(b), named, event(`device:${b}`));
    assert.deepEqual(taken, { outcome: 'nameTaken', bearer });
    // The name goes to the other device in the same call.
    const renamed = { ...bearer, name: 'cam-2', serial: 2 };
    const both = await Promise.all([
      one.fleetStore.changeMember(bearer, renamed, event(`device:${a}`)),
      other.fleetStore.changeMember(member(b), named, event(`device:${b}`)),
    ]);
    assert.deepEqual(both, [{ outcome: 'changed' }, { outcome: 'changed' }]);
    assert.equal(one.fleetStore.registry.named('cam-1')?.id, b);
    assert.equal(other.fleetStore.registry.named('cam-2')?.id, a);
  });
}

function testChanges(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);

  check('changes a member only where it is still what the change was decided by', async ({ one, other }) => {
    const before = member(a);
    await one.fleetStore.admit(admission(before));
    const [moved, revoked] = [
      { ...before, site: 'south', serial: 2 },
      { ...before, serial: 2, revokedAt: AT },
    ];
    const outcomes = await Promise.all([
      one.fleetStore.changeMember(before, moved, event('moved')),
      other.fleetStore.changeMember(before, revoked, event('revoked')),
    ]);
    assert.deepEqual(outcomes, [{ outcome: 'changed' }, { outcome: 'stale' }]);
    assert.deepEqual(await subjects(other), [`device:${a}`, 'moved']);
    assert.deepEqual(other.fleetStore.registry.activeMember(a), moved);
  });

  check('replaces a member in the commit that lets the newcomer in', async ({ one, other, restart }) => {
    const before = member(old, { name: 'cam' });
    await one.fleetStore.admit(admission(before));
    const after = { ...before, serial: 2, revokedAt: AT };
    const replaces = { before, after };
    const outcomes = await Promise.all([
      one.fleetStore.admit(admission(member(successor, { name: 'cam' }), { replaces })),
      other.fleetStore.admit(admission(member(rival, { name: 'cam' }), { replaces })),
    ]);
    assert.deepEqual(outcomes, [{ outcome: 'admitted' }, { outcome: 'stale' }]);
    const { registry } = (await restart()).fleetStore;
    assert.deepEqual(new Set([...registry.members()].map(({ id }) => id)), new Set([old, successor]));
    assert.equal(registry.named('cam')?.id, successor);
    assert.equal(registry.activeMember(old), undefined);
  });

  check('remembers when members were heard, and which gateways report that', async ({ one, restart }) => {
    one.fleetStore.registry.saw('a', 5);
    await one.fleetStore.saveSeen();
    await one.fleetStore.saveSeen();
    await one.fleetStore.saveReportingGateways(new Map([['g', true]]));
    await one.fleetStore.saveReportingGateways(new Map([['h', true]]));
    await one.fleetStore.saveReportingGateways(new Map([['g', false]]));
    const { fleetStore } = await restart();
    assert.equal(fleetStore.registry.seenMs('a'), 5);
    assert.deepEqual(await fleetStore.reportingGateways(), ['h']);
  });
}

function testJoinTokens(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);

  check('lets in as many as a join token says, counted with each member', async ({ one, other, restart }) => {
    assert.equal(await one.fleetStore.addJoinToken(joinToken('t', 3), event('t')), 'added');
    const outcomes = await Promise.all(
      [a, b, c, d, e].map((id, at) =>
        (at % 2 === 0 ? one : other).fleetStore.admit(
          admission(member(id), { joinToken: { id: 't', isRequired: true } }),
        ),
      ),
    );
    assert.deepEqual(
      outcomes.map(({ outcome }) => outcome),
      ['admitted', 'admitted', 'admitted', 'joinTokenUsedUp', 'joinTokenUsedUp'],
    );
    for (const { fleetStore } of [one, other, await restart()]) {
      assert.equal(fleetStore.joinToken('t')?.used, 3);
      assert.equal(fleetStore.registry.size, 3);
    }
  });

  check('uses a join token for an accepted newcomer where it still can', async ({ one }) => {
    await one.fleetStore.addJoinToken(joinToken('t', 1), event('t'));
    const accepted = (id: string) => admission(member(id), { joinToken: { id: 't', isRequired: false } });
    assert.deepEqual(await one.fleetStore.admit(accepted(a)), { outcome: 'admitted' });
    assert.deepEqual(await one.fleetStore.admit(accepted(b)), { outcome: 'admitted' });
    assert.equal(one.fleetStore.joinToken('t')?.used, 1);
  });

  check('lets nobody in by a join token that another origin has removed', async ({ one, other }) => {
    await one.fleetStore.addJoinToken(joinToken('t', 3), event('t'));
    assert.equal(other.fleetStore.joinToken('t')?.uses, 3);
    const removing = other.fleetStore.removeJoinToken('t', ({ used }) => event(`removed after ${used}`));
    const admitting = one.fleetStore.admit(
      admission(member(a), { joinToken: { id: 't', isRequired: true } }),
    );
    assert.deepEqual(await Promise.all([removing, admitting]), ['removed', { outcome: 'joinTokenUnknown' }]);
    assert.equal(await one.fleetStore.removeJoinToken('t', () => event('again')), 'unknown');
    assert.deepEqual(await subjects(one), ['t', 'removed after 0']);
    assert.deepEqual([...one.fleetStore.joinTokens()], []);
  });
}

function testReports(test: Test, open: OpenStores): void {
  const check = withOpened(test, open);
  const place = (seq: number, epoch = 'e1', id = 'a') => ({ id, epoch, seq });

  check('takes in all that comes of reports, or nothing', async ({ one, other, restart }) => {
    const first = status(a, 2);
    const taking = one.fleetStore.takeIn(
      intake({
        statuses: [{ before: undefined, after: first }],
        reports: [1, 2].map(seq => ({ place: place(seq), report: report(`report ${seq}`) })),
        outcomes: [{ rolloutId: 'r', deviceId: 'a', outcome }],
        inventories: [{ id: 'a', inventory: { kernel: '6.1' } }],
        events: [event('taken')],
      }),
    );
    // The verdict rests on what was known before the other's report came.
    const late = other.fleetStore.takeIn(
      intake({
        statuses: [{ before: undefined, after: status(a, 1) }],
        reports: [{ place: place(1, 'e2'), report: report('late') }],
        outcomes: [{ rolloutId: 's', deviceId: 'a', outcome }],
        events: [event('late')],
      }),
    );
    assert.deepEqual(await Promise.all([taking, late]), ['taken', 'stale']);
    for (const { fleetStore } of [one, other, await restart()]) {
      assert.deepEqual(fleetStore.registry.status(a), first);
      assert.deepEqual(await fleetStore.report(place(2)), report('report 2'));
      assert.equal(await fleetStore.report(place(1, 'e2')), undefined);
      assert.deepEqual(await fleetStore.outcome('r', 'a'), outcome);
      assert.equal(await fleetStore.outcome('s', 'a'), undefined);
      assert.deepEqual(await fleetStore.inventory('a'), { kernel: '6.1' });
    }
    assert.deepEqual(await subjects(one), ['taken']);
    const next = await other.fleetStore.takeIn(
      intake({ statuses: [{ before: first, after: status(a, 3) }] }),
    );
    assert.equal(next, 'taken');
    assert.equal(one.fleetStore.registry.status(a)?.chains[0]?.seq, 3);
  });

  check('gives reports newest first, and says what is kept oldest first', async ({ one }) => {
    const places = [place(1), place(2), place(10), place(1, 'e2'), place(1, 'e1', 'ab')];
    const reports = places.map(at => ({ place: at, report: report(`${at.epoch} ${at.seq}`) }));
    await one.fleetStore.takeIn(intake({ reports }));
    assert.deepEqual(await one.fleetStore.newestReports('a', 'e1', 2), [report('e1 10'), report('e1 2')]);
    const kept = async (epoch?: string) => {
      const found = [];
      for await (const each of one.fleetStore.keptReports('a', epoch)) found.push(each);
      return found;
    };
    const bytesOf = (at: ReturnType<typeof place>) => ({
      place: at,
      lengthBytes: keptBytesOf(at, report(`${at.epoch} ${at.seq}`)),
    });
    assert.deepEqual(await kept('e1'), places.slice(0, 3).map(bytesOf));
    assert.deepEqual(await kept(), places.slice(0, 4).map(bytesOf));
    await one.fleetStore.takeIn(intake({ droppedReports: [place(1), place(99)] }));
    assert.deepEqual(await kept('e1'), places.slice(1, 3).map(bytesOf));
  });
}

/** The audit log's entries, after a check of their chain. */
async function subjects({ audit }: Stores): Promise<string[]> {
  const { entries } = await audit.find(0, 1000);
  const check = new AuditChainCheck();
  for (const entry of entries) check.take(entry);
  check.end(audit.head);
  return entries.map(({ subject }) => subject);
}
