import { join } from 'node:path';
import { openLevelStore } from '@sitecast/shared/key-value';
import { ClassicLevel } from 'classic-level';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { MAX_PAGE } from '../http/routes/members.ts';
import { assignmentIn, type TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { temporaryDirectory } from '../testing/setup.ts';
import { MAX_JOIN_TOKENS } from './fleet-store.ts';
import { JoinTokens } from './join-tokens.ts';
import { MAX_PROGRESS_ENTRIES, PROGRESS_TTL_MS, ProgressBoard } from './progress.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import { Tables } from '../adapters/embedded/tables.ts';

it('accepts no tag that an assignment could not carry, and reads one that an earlier version accepted', async () => {
  const harness = await FleetHarness.open(path => testDisk(path));
  const device = await harness.device();
  const path = `/api/v1/devices/${device.id}`;
  expect(await harness.call('PATCH', path, { tags: { ring: 'x\ud83d' } })).toMatchObject({ httpStatus: 400 });
  const before = harness.origin.fleet.registry.require('device', device.id);
  const value = { ...before, serial: 2, tags: { ring: 'x\ud83d' } };
  await harness.store.commit([{ table: 'member', key: device.id, value }]);
  await harness.restart();
  expect(harness.origin.fleet.registry.member(device.id)?.tags).toEqual({ ring: 'x\ufffd' });
  const answer = await device.get(`/site/v1/assignments/${device.id}`);
  expect(assignmentIn(answer, harness.signers)).toMatchObject({ serial: 2, tags: { ring: 'x\ufffd' } });
  await harness.close();
});

describe('a list of devices', () => {
  let harness: FleetHarness;
  const devices: TestMember[] = [];
  beforeAll(async () => {
    harness = await FleetHarness.open(path => testDisk(path));
    for (const site of ['north', 'north', 'north', 'south']) devices.push(await harness.device(site));
    await harness.gateway('north');
    const [first, second] = devices;
    for (const device of [first, second]) {
      const tags = { ring: 'early', ...(device === first && { floor: '2' }) };
      await harness.call('PATCH', `/api/v1/devices/${device?.id}`, { tags });
    }
    harness.clock.passHours(2);
    const release = { counter: 1, version: '1.0.0' };
    await first?.report({ state: 'failed', booted: { slot: 'A', release } });
  });
  afterAll(() => harness.close());

  async function list(query: string): Promise<string[]> {
    const { members } = await harness.call('GET', `/api/v1/devices?${query}`);
    return Array.isArray(members) ? members.map(({ id }: { id: string }) => id) : [];
  }
  const ids = (...which: number[]) => which.map(at => devices[at]?.id ?? '').sort();

  it.each([
    ['', [0, 1, 2, 3]],
    ['site=north', [0, 1, 2]],
    ['site=south&product=camera', [3]],
    ['product=doorbell', []],
    ['tag=ring=early', [0, 1]],
    ['tag=ring=early&tag=floor=2', [0]],
    ['tag=ring=late', []],
    ['tag=constructor=x', []],
    ['state=failed', [0]],
    ['state=enrolled', [1, 2, 3]],
    ['state=enrolled&site=north', [1, 2]],
    ['version=1.0.0', [0]],
    ['version=9.9.9', []],
    ['silentForMs=3600000', [1, 2, 3]],
    ['silentForMs=7200001', []],
  ])('filtered by %j has the matching ones', async (query, which) => {
    expect(await list(query)).toEqual(ids(...which));
  });

  it('finds those whose id begins or ends with a text', async () => {
    const id = devices[2]?.id ?? '';
    expect(await list(`idPart=${id.slice(-8)}`)).toEqual([id]);
    expect(await list(`idPart=${id.slice(0, 40)}`)).toEqual([id]);
    expect(await list(`idPart=${id.slice(10, 30)}`)).toEqual([]);
  });

  it('has pages in one order, even if devices join in between', async () => {
    const first = await harness.call('GET', '/api/v1/devices?limit=2');
    expect(first).toMatchObject({ members: { length: 2 }, nextCursor: expect.any(String) });
    const joined = await harness.device('west');
    const seen = [...ids(0, 1, 2, 3)];
    const rest = await list(`limit=${MAX_PAGE}&cursor=${String(first.nextCursor)}`);
    const later = [...seen, joined.id].sort().filter(id => id > String(first.nextCursor));
    expect(rest).toEqual(later);
  });

  it.each([
    'limit=0',
    `limit=${MAX_PAGE + 1}`,
    'cursor=x',
    'tag=x',
    'state=asleep',
    'site=../x',
    'silentForMs=-1',
    'silentForMs=x',
    `idPart=${'x'.repeat(65)}`,
  ])('is refused for %s', async query => {
    expect(await harness.call('GET', `/api/v1/devices?${query}`)).toMatchObject({ httpStatus: 400 });
  });

  it('marks what is odd about a chain of reports', async () => {
    const device = await harness.device('east');
    await device.report();
    const clone = device.clone();
    device.beginChain();
    await device.report();
    const marked = () => harness.call('GET', '/api/v1/devices?site=east');
    expect(await marked()).toMatchObject({ members: [{ odd: ['epochChange'] }] });
    const [first, second] = [await clone.clone().next({ state: 'failed' }), await clone.next()];
    await device.sendReports([first, second]);
    const after = await marked();
    expect(after).toMatchObject({
      members: [{ odd: ['epochChange', 'fork'], quarantinedAt: expect.any(String) }],
    });
  });

  it('stores when a member was seen', async () => {
    const [first] = devices;
    const before = await harness.call('GET', `/api/v1/devices/${first?.id}`);
    expect(before.lastSeenAt).toBe(new Date(harness.clock.nowMs).toISOString());
    await harness.restart();
    expect(await harness.call('GET', `/api/v1/devices/${first?.id}`)).toEqual(before);
  });
});

describe('the tables of a fleet', () => {
  const store = new MemoryTables();

  const keys = async (range: object) => {
    const found = [];
    for await (const [key] of store.entries('report', range)) found.push(key);
    return found;
  };

  it('commits what is put and deleted, and reads ranges either way', async () => {
    const put = (key: string) => ({ table: 'report' as const, key, value: { key } });
    await store.commit([put('a!1'), put('a!2'), put('a!3'), put('b!1'), put('aa!1')]);
    await store.commit([{ table: 'report', key: 'a!2', value: undefined }, put('a!4')]);
    expect(await store.get('report', 'a!1')).toEqual({ key: 'a!1' });
    expect(await store.get('report', 'a!2')).toBeUndefined();
    expect(await store.get('member', 'a!1')).toBeUndefined();
    expect(await keys({})).toEqual(['a!1', 'a!3', 'a!4', 'aa!1', 'b!1']);
    expect(await keys({ prefix: 'a!' })).toEqual(['a!1', 'a!3', 'a!4']);
    expect(await keys({ prefix: 'a!', after: 'a!1' })).toEqual(['a!3', 'a!4']);
    expect(await keys({ prefix: 'a!', isReversed: true, limit: 2 })).toEqual(['a!4', 'a!3']);
    expect(await keys({ prefix: 'a!', after: 'a!4', isReversed: true })).toEqual(['a!3', 'a!1']);
  });

  it('are those that earlier versions wrote', async () => {
    const { path, remove } = temporaryDirectory();
    const earlier = new ClassicLevel<string, unknown>(join(path, 'state'), { valueEncoding: 'json' });
    for (const name of ['report', 'reporter'])
      await earlier.sublevel<string, unknown>(name, { valueEncoding: 'json' }).put('a!1', { in: name });
    await earlier.close();
    const owner = { name: 'origin', dataDirectory: path, cure: '' };
    const opened = await openLevelStore({ path: join(path, 'state'), witnessPath: join(path, 'w'), owner });
    const tables = new Tables(opened);
    expect(await tables.get('report', 'a!1')).toEqual({ in: 'report' });
    const entries = [];
    for await (const entry of tables.entries('report')) entries.push(entry);
    expect(entries).toEqual([['a!1', { in: 'report' }]]);
    await opened.close();
    await remove();
  });

  it('report what can not be read instead of continuing without it', async () => {
    await store.commit([{ table: 'member', key: 'x', value: { id: 'x' } }]);
    await expect(openStores(store, Date.now)).rejects.toMatchObject({ code: 'SITECAST_STATE_DAMAGED' });
  });
});

it('bounds the kept progress in number and time', () => {
  const board = new ProgressBoard();
  const said = (id: string) => ({ id, state: 'downloading' as const, doneBytes: 1, totalBytes: 2, at: '' });
  for (let at = 0; at <= MAX_PROGRESS_ENTRIES; at += 1) board.put(said(String(at)), 0);
  expect(board.get('0', 0)).toBeUndefined();
  expect(board.get('1', PROGRESS_TTL_MS - 1)).toMatchObject({ id: '1' });
  expect(board.get('1', PROGRESS_TTL_MS)).toBeUndefined();
});

it('creates a bounded number of join tokens', async () => {
  const store = new MemoryTables();
  const token = (at: number) => ({
    id: String(at),
    publicKey: 'a'.repeat(64),
    kind: 'device',
    uses: 1,
    used: 0,
    createdAt: '2030-01-01T00:00:00Z',
    createdBy: 'test',
    expiresAt: '2031-01-01T00:00:00Z',
  });
  const many = Array.from({ length: MAX_JOIN_TOKENS - 1 }, (_, at) => token(at));
  await store.commit(many.map(value => ({ table: 'joinToken' as const, key: value.id, value })));
  const now = () => Date.parse('2030-06-01');
  const tokens = new JoinTokens((await openStores(store, now)).fleetStore, now);
  const wanted = { kind: 'device' as const, uses: 1, expiresAt: '2031-01-01T00:00:00Z', origin: 'https://o' };
  await tokens.create(wanted, 'a'.repeat(64), 'test');
  await expect(tokens.create(wanted, 'a'.repeat(64), 'test')).rejects.toMatchObject({
    code: 'SITECAST_TOO_MANY_JOIN_TOKENS',
  });
});
