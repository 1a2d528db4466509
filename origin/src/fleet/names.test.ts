import type { Enrolment } from '@sitecast/shared/fleet';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { assignmentIn, type TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

let harness: FleetHarness;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterAll(() => harness.close());

const refusal = (httpStatus: number, code: string) => ({ httpStatus, code });
const show = (id: string) => harness.call('GET', `/api/v1/devices/${id}`);
const change = (id: string, json: unknown) => harness.call('PATCH', `/api/v1/devices/${id}`, json);
const accept = (id: string, json: unknown) => harness.call('POST', `/api/v1/devices/${id}/accept`, json);

async function found(query: string): Promise<{ id: string; wish?: string; wishBearer?: { id: string } }[]> {
  const { members } = await harness.call('GET', `/api/v1/devices?${query}`);
  if (!Array.isArray(members)) throw new Error('no list');
  return members;
}

const waiting = async (id: string) => (await found('state=pending')).find(member => member.id === id);

/** A member that enrolled with a token and has the name. */
async function named(name: string, token: Record<string, unknown> = {}): Promise<TestMember> {
  const device = harness.member();
  const answer = await device.enrol(await harness.joinToken({ site: 'north', ...token }), { name });
  expect(answer.status).toBe(200);
  return device;
}

async function entriesOf(id: string): Promise<{ action: string; by: string; details?: unknown }[]> {
  const { entries } = await harness.call('GET', `/api/v1/audit?limit=1000&subject=device:${id}`);
  if (!Array.isArray(entries)) throw new Error('no entries');
  return entries;
}

describe('a name', () => {
  it('that is requested and free comes with the enrolment, in the signed assignment and the audit log', async () => {
    const device = harness.member();
    const answer = await device.enrol(await harness.joinToken({ site: 'north' }), { name: 'cam-1' });
    expect(assignmentIn(answer, harness.signers)).toMatchObject({ id: device.id, name: 'cam-1' });
    expect(await show(device.id)).toMatchObject({ name: 'cam-1' });
    expect(await entriesOf(device.id)).toMatchObject([
      { action: 'device.enrol', details: { name: 'cam-1', site: 'north' } },
    ]);
  });

  it('of the token overrides a requested one', async () => {
    const device = harness.member();
    const token = await harness.joinToken({ site: 'north', name: 'lab-7' });
    expect(assignmentIn(await device.enrol(token, { name: 'cam-lab' }), harness.signers).name).toBe('lab-7');
    expect(
      await harness.call('POST', '/api/v1/join-tokens', { ...NEW_TOKEN, name: 'x', uses: 2 }),
    ).toMatchObject({
      httpStatus: 400,
    });
  });

  it.each([
    ['control characters', 'cam\u0007\u001b[2J'],
    ['longer than any name', 'x'.repeat(40_000)],
    ['a letter that only looks right', 'c\u0430m-1'],
    ['an id', '12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo'],
    ['the beginning of an id, whatever its case', '12d3koowabc'],
    ['nothing', ''],
    ['no text', 7],
  ])('that is invalid does not prevent enrolment: %s', async (_what, name) => {
    const device = harness.member();
    const said: Partial<Enrolment> = JSON.parse(JSON.stringify({ name }));
    const answer = await device.enrol(await harness.joinToken({ site: 'north' }), said);
    expect(assignmentIn(answer, harness.signers)).not.toHaveProperty('name');
    const stranger = harness.member();
    expect(await stranger.enrol(undefined, said)).toMatchObject({ status: 202 });
    expect(await waiting(stranger.id)).not.toHaveProperty('wish');
  });

  it('belongs to one device at a time, whatever its case, and a token can not take it from its bearer', async () => {
    const first = await named('Gate-1');
    const token = await harness.joinToken({ site: 'north', uses: 3 });
    const second = harness.member();
    expect(await second.enrol(token, { name: 'gate-1' })).toMatchObject({
      status: 202,
      body: { state: 'pending' },
    });
    expect(await waiting(second.id)).toMatchObject({
      wish: 'gate-1',
      wishBearer: { id: first.id, lastHeardAt: expect.any(String) },
    });
    // The same holds for a name in the token.
    const third = harness.member();
    const bound = await harness.joinToken({ site: 'north', name: 'GATE-1' });
    expect(await third.enrol(bound)).toMatchObject({ status: 202 });
    expect(await change(first.id, {})).toMatchObject({ name: 'Gate-1' });
  });

  it('that two request at one time goes to one, and the other waits', async () => {
    const token = await harness.joinToken({ site: 'north', uses: 9 });
    const devices = Array.from({ length: 4 }, () => harness.member());
    const answers = await Promise.all(devices.map(device => device.enrol(token, { name: 'rush' })));
    expect(answers.map(({ status }) => status).sort((one, other) => one - other)).toEqual([
      200, 202, 202, 202,
    ]);
    expect(await found('idPart=RUSH')).toHaveLength(1);
  });

  it('can be changed by an operator, and not by its bearer', async () => {
    const device = await named('old-name');
    const again = await device.enrol(undefined, { name: 'new-name' });
    expect(assignmentIn(again, harness.signers)).toMatchObject({ name: 'old-name', serial: 1 });
    await named('taken');
    expect(await change(device.id, { name: 'TAKEN' })).toMatchObject(refusal(409, 'SITECAST_NAME_TAKEN'));
    expect(await change(device.id, { name: 'new name' })).toMatchObject({ httpStatus: 400 });
    expect(await change(device.id, { name: 'OLD-name' })).toMatchObject({ name: 'OLD-name', serial: 2 });
    expect(await change(device.id, { name: null })).not.toHaveProperty('name');
    expect(await change(device.id, { name: null })).toMatchObject({ serial: 3 });
    expect(await entriesOf(device.id)).toMatchObject([
      { action: 'device.enrol' },
      { action: 'device.change', details: { before: { name: 'old-name' }, name: 'OLD-name' } },
      { action: 'device.change', details: { before: { name: 'OLD-name' } } },
    ]);
    await named('old-name');
  });

  it('is free again once its bearer is revoked; the bearer is known after a restart', async () => {
    const device = await named('gone-1');
    expect(await harness.call('POST', `/api/v1/devices/${device.id}/revoke`)).toMatchObject({
      name: 'gone-1',
    });
    const next = await named('GONE-1');
    await harness.restart();
    const bearers = await found('idPart=gone-1');
    expect(bearers.map(({ id }) => id).sort()).toEqual([device.id, next.id].sort());
    expect(harness.origin.fleet.registry.named('gone-1')).toMatchObject({ id: next.id });
    const late = harness.member();
    expect(await late.enrol(await harness.joinToken({ site: 'north' }), { name: 'gone-1' })).toMatchObject({
      status: 202,
    });
  });
});

const NEW_TOKEN = { kind: 'device', origin: 'https://o.example', expiresAt: '2031-01-01T00:00:00Z' };

describe('a waiting device', () => {
  it('gets a name from an operator only, not by its own request', async () => {
    const [wishing, other] = [harness.member(), harness.member()];
    const gateway = await harness.gateway('south');
    await wishing.enrol(undefined, { name: 'wish-1' }, gateway);
    await other.enrol(undefined, {}, gateway);
    expect(await waiting(wishing.id)).toMatchObject({ wish: 'wish-1' });
    // A released command, which has no names, sends this.
    expect(await accept(wishing.id, {})).not.toHaveProperty('name');
    expect(await accept(other.id, { name: 'wish-1' })).toMatchObject({ name: 'wish-1', site: 'south' });
    // The request is repeated because its answer was lost.
    expect(await accept(other.id, { name: 'wish-1' })).toMatchObject({ httpStatus: 200, serial: 1 });
  });

  it('replaces another device where an operator names that one: both in one write', async () => {
    const old = await named('board-1');
    await change(old.id, { tags: { ring: 'early' } });
    const anew = harness.member();
    const token = await harness.joinToken({ uses: 1 });
    await anew.enrol(token, { name: 'board-1' }, await harness.gateway('south'));
    expect(await accept(anew.id, { name: 'board-1' })).toMatchObject(refusal(409, 'SITECAST_NAME_TAKEN'));
    const stranger = await named('board-2');
    expect(await accept(anew.id, { name: 'board-1', replace: stranger.id })).toMatchObject(
      refusal(409, 'SITECAST_NOT_NAMED_SO'),
    );
    expect(await accept(anew.id, { replace: old.id })).toMatchObject({ httpStatus: 400 });

    const commit = harness.store.commit.bind(harness.store);
    let writes: readonly { table: string }[] = [];
    harness.store.commit = () => Promise.reject(new Error('disk full'));
    expect(await accept(anew.id, { name: 'board-1', replace: old.id })).toMatchObject({ httpStatus: 500 });
    expect(await show(old.id)).toMatchObject({ state: 'enrolled', name: 'board-1' });
    expect(await waiting(anew.id)).toMatchObject({ wish: 'board-1' });
    harness.store.commit = async all => {
      if (all.some(({ table }) => table === 'member')) writes = all;
      await commit(all);
    };
    expect(await accept(anew.id, { name: 'board-1', replace: old.id })).toMatchObject({
      name: 'board-1',
      site: 'north',
      tags: { ring: 'early' },
    });
    harness.store.commit = commit;
    expect(writes.map(({ table }) => table).sort()).toEqual([
      'audit',
      'audit',
      'joinToken',
      'member',
      'member',
    ]);
    expect(await show(old.id)).toMatchObject({ state: 'revoked' });
    expect(await entriesOf(old.id)).toContainEqual(
      expect.objectContaining({ action: 'device.revoke', details: { name: 'board-1', replacedBy: anew.id } }),
    );
    expect(await entriesOf(anew.id)).toMatchObject([
      { action: 'device.accept', details: { name: 'board-1', replaces: old.id } },
    ]);
    // This uses up the token that would have enrolled the device.
    expect(await harness.member().enrol(token, {}, await harness.gateway('south'))).toMatchObject({
      status: 403,
    });
    // A repetition changes nothing.
    expect(await accept(anew.id, { name: 'board-1', replace: old.id })).toMatchObject({
      httpStatus: 200,
      serial: 1,
    });
  });

  it('is at the chosen site, and does not affect the old device until it is accepted', async () => {
    const old = await named('board-3');
    const anew = harness.member();
    await anew.enrol(await harness.joinToken({ site: 'north' }), { name: 'board-3' });
    expect((await old.get(`/site/v1/assignments/${old.id}`)).status).toBe(200);
    expect(await show(old.id)).toMatchObject({ state: 'enrolled', name: 'board-3' });
    const said = { name: 'board-3', replace: old.id, site: 'east' };
    expect(await accept(anew.id, said)).toMatchObject({ site: 'east', name: 'board-3' });
  });
});

describe('a registry from before names', () => {
  it('opens, and its devices can be named', async () => {
    const device = await harness.device();
    expect(await show(device.id)).not.toHaveProperty('name');
    const stored = await harness.store.get('member', device.id);
    expect(stored).not.toHaveProperty('name');
    await harness.restart();
    expect(await change(device.id, { name: 'late-1' })).toMatchObject({ name: 'late-1', serial: 2 });
    const answer = await device.get(`/site/v1/assignments/${device.id}`);
    expect(assignmentIn(answer, harness.signers)).toMatchObject({ name: 'late-1', serial: 2 });
  });
});
