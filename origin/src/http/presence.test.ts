import {
  HEARD_FOR_MS,
  MAX_PRESENCE_IDS,
  MAX_TOLD_TURNS,
  type Presence,
  TELL_EVERY_MS,
} from '@sitecast/shared/api';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { FleetEvent } from '../events/events.ts';
import { LOOK_EVERY_MS, COMING_MS, SILENT_AFTER_MS } from '../fleet/presence.ts';
import type { Write } from '../adapters/embedded/tables.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

const PATH = '/site/v1/presence';
const MINUTE_MS = 60_000;

/** Counts the writes. */
class CountingFleet extends MemoryTables {
  readonly writes: Write[] = [];

  override commit(writes: readonly Write[]): Promise<void> {
    this.writes.push(...writes);
    return super.commit(writes);
  }

  count(table: string): number {
    return this.writes.filter(write => write.table === table).length;
  }
}

let harness: FleetHarness;
let store: CountingFleet;
let events: FleetEvent[];
let due: { atMs: number; act: () => void }[];
beforeEach(async () => {
  store = new CountingFleet();
  [events, due] = [[], []];
  const after = (delayMs: number, act: () => void) => {
    const timer = { atMs: (harness?.clock.nowMs ?? 0) + delayMs, act };
    due.push(timer);
    return () => {
      due = due.filter(one => one !== timer);
    };
  };
  harness = await FleetHarness.open(
    path => ({
      ...testDisk(path),
      events: { emit: event => events.push(event) },
      after,
    }),
    store,
  );
  // The restart sets its timers by this clock.
  await harness.restart();
});
afterEach(() => harness.close());

it('counts silent devices as it finds them one by one, where gateways hear some of them twice', async () => {
  const [one, other] = [new Talker(await harness.gateway()), new Talker(await harness.gateway())];
  const [south, quiet] = [new Talker(await harness.gateway('south')), await harness.device('south')];
  const devices = await Promise.all(Array.from({ length: 5 }, () => harness.device()));
  await harness.device('west');
  const ids = devices.map(({ id }) => id);
  await pass(COMING_MS);
  await one.say({ heard: ids.slice(0, 2) });
  await other.say({ heard: ids.slice(1, 3) });
  await south.say();
  const silent = async () => {
    const states = await Promise.all([...devices, quiet].map(presenceOf));
    const text = await (await harness.ask('/metrics')).text();
    const counted = Number(/^sitecast_silent_devices (\d+)$/m.exec(text)?.[1]);
    expect(counted).toBe(states.filter(state => state === 'silent').length);
    return counted;
  };
  expect(await silent()).toBe(3);
  await other.say({ gone: [{ id: ids[2] ?? '', ageS: 0 }] });
  await pass(10_000);
  expect(await silent()).toBe(4);
  // Its gateway goes on hearing a device that isn't the site's any more.
  await harness.call('POST', `/api/v1/devices/${ids[0] ?? ''}/revoke`);
  await pass(10_000);
  expect(await silent()).toBe(4);
  // Where a gateway of the site is away, its devices may be with it.
  await pass(SILENT_AFTER_MS - 1);
  await one.say();
  await south.say();
  await pass(2);
  expect(await silent()).toBe(1);
});

/** Lets time pass, and runs the timers that are due. */
async function pass(ms: number): Promise<void> {
  const endMs = harness.clock.nowMs + ms;
  for (;;) {
    const [next] = due.filter(({ atMs }) => atMs <= endMs).sort((one, other) => one.atMs - other.atMs);
    if (!next) break;
    due = due.filter(one => one !== next);
    harness.clock.nowMs = Math.max(harness.clock.nowMs, next.atMs);
    next.act();
    // A timer's work sets the next timer.
    await new Promise(resolve => setImmediate(resolve));
  }
  harness.clock.nowMs = endMs;
}

/** A gateway that reports which devices it hears. */
class Talker {
  readonly gateway: TestMember;
  session = 'a'.repeat(16);
  seq = 0;

  constructor(gateway: TestMember) {
    this.gateway = gateway;
  }

  async say(said: Partial<Presence> = {}) {
    const message = { session: this.session, seq: this.seq + 1, heard: [], gone: [], turns: [] };
    const answer = await this.gateway.post(PATH, { isWhole: true, ...message, ...said });
    if (answer.body.next === 'changes') this.seq += 1;
    return answer;
  }
}

const show = ({ id, kind }: TestMember) => harness.call('GET', `/api/v1/${kind}s/${id}`);
const presenceOf = async (member: TestMember): Promise<unknown> => (await show(member)).presence;
const idsIn = ({ members }: Record<string, unknown>): string[] =>
  Array.isArray(members) ? members.map(({ id }: { id: string }) => id) : [];
const silentFor = async (ms: number): Promise<string[]> =>
  idsIn(await harness.call('GET', `/api/v1/devices?silentForMs=${ms}`));

it('counts a device as heard where a gateway hears it, and as silent where no gateway of its site does', async () => {
  const talker = new Talker(await harness.gateway());
  const [heard, lost] = [await harness.device(), await harness.device()];
  expect(await presenceOf(heard)).toBe('untold');
  await pass(3 * MINUTE_MS);
  const { id } = heard;
  expect(await talker.say({ heard: [id], isWhole: false })).toMatchObject({ status: 200 });
  expect([await presenceOf(heard), await presenceOf(lost)]).toEqual(['heard', 'untold']);
  expect(await show(heard)).toMatchObject({ heardBy: [talker.gateway.id] });
  await talker.say();
  await pass(TELL_EVERY_MS);
  expect([await presenceOf(heard), await presenceOf(lost)]).toEqual(['heard', 'silent']);
  expect(await show(talker.gateway)).toMatchObject({ presence: 'heard', hears: { devices: 1, turns: [] } });
  expect(await silentFor(MINUTE_MS / 2)).toEqual([lost.id]);
  // The device went silent. The time of its last contact is the gateway's, not that of the report.
  await talker.say({ gone: [{ id, ageS: HEARD_FOR_MS / 1000 }] });
  expect(await show(heard)).toMatchObject({ presence: 'silent' });
  await pass(TELL_EVERY_MS);
  expect(await silentFor(HEARD_FOR_MS + MINUTE_MS)).toEqual([heard.id, lost.id].sort());
});

it('counts no device as silent where one gateway of its site has not reported, or is silent itself', async () => {
  const [talker, other] = [new Talker(await harness.gateway()), await harness.gateway()];
  const device = await harness.device();
  await talker.say();
  expect(await presenceOf(device)).toBe('untold');
  await harness.call('POST', `/api/v1/gateways/${other.id}/revoke`);
  // The device has only just enrolled. Its gateway may report it soon.
  expect(await presenceOf(device)).toBe('untold');
  harness.clock.nowMs += COMING_MS;
  expect(await presenceOf(device)).toBe('silent');
  await pass(SILENT_AFTER_MS + 1);
  expect(await presenceOf(device)).toBe('untold');
});

it('finds within two minutes that a gateway died, and emits one event for it and one for its return', async () => {
  const [talker, released] = [new Talker(await harness.gateway()), await harness.gateway('south')];
  const device = await harness.device();
  await talker.say({ heard: [device.id] });
  const saidMs = harness.clock.nowMs;
  await pass(2 * MINUTE_MS - 1);
  const about = { gateway: talker.gateway.id, site: 'north' };
  const told = () => events.filter(({ type }) => type.startsWith('gateway.'));
  const lastHeardAt = new Date(saidMs).toISOString();
  expect(told()).toEqual([{ type: 'gateway.silent', data: { ...about, lastHeardAt } }]);
  expect([await presenceOf(talker.gateway), await presenceOf(released)]).toEqual(['silent', 'untold']);
  expect(await harness.call('GET', '/api/v1/presence')).toMatchObject({
    gateways: { heard: 0, silent: 1, untold: 1 },
    silent: [{ id: talker.gateway.id, site: 'north', lastHeardAt }],
  });
  const metrics = async (): Promise<string> => (await harness.ask('/metrics')).text();
  expect(await metrics()).toContain('sitecast_gateways{presence="silent"} 1\n');
  expect(await metrics()).toContain('sitecast_heard_devices 0\n');
  // The last contact that it reported for its devices is kept.
  expect(await show(device)).toMatchObject({ lastSeenAt: lastHeardAt });
  await talker.say();
  await pass(LOOK_EVERY_MS);
  expect(told().slice(1)).toEqual([{ type: 'gateway.heard', data: about }]);
  expect(await metrics()).toContain('sitecast_heard_devices 1\n');
});

it('claims nothing after a restart until all gateways had time to report, and everything again then', async () => {
  const [talker, dead] = [new Talker(await harness.gateway()), new Talker(await harness.gateway('south'))];
  const [device, other] = [await harness.device(), await harness.device('south')];
  await talker.say({ heard: [device.id] });
  await dead.say({ heard: [other.id] });
  const saidAt = new Date(harness.clock.nowMs).toISOString();
  await pass(MINUTE_MS);
  await harness.restart();
  await pass(SILENT_AFTER_MS - MINUTE_MS);
  for (const one of [dead.gateway, device, other]) expect(await presenceOf(one)).not.toBe('silent');
  // The time of the last contact with both was stored when the process ended.
  expect((await show(other)).lastSeenAt).toBe(saidAt);
  // Its position is lost. The origin asks for a whole report, and knows all devices after it.
  expect((await talker.say()).body).toEqual({ next: 'whole' });
  Object.assign(talker, { session: 'b'.repeat(16), seq: 0 });
  expect((await talker.say({ heard: [device.id] })).body).toEqual({ next: 'changes' });
  await pass(MINUTE_MS + LOOK_EVERY_MS);
  expect([await presenceOf(device), await presenceOf(dead.gateway)]).toEqual(['heard', 'silent']);
});

it('gives gateways time to report after the origin stood still, or its clock was set', async () => {
  const talker = new Talker(await harness.gateway());
  await talker.say();
  harness.clock.nowMs += 60 * MINUTE_MS;
  await pass(SILENT_AFTER_MS);
  expect([await presenceOf(talker.gateway), events]).toEqual(['untold', []]);
  await pass(LOOK_EVERY_MS);
  expect(events).toMatchObject([{ type: 'gateway.silent' }]);
});

it('writes nothing for a heartbeat, and little for changes', async () => {
  const talker = new Talker(await harness.gateway());
  const devices = [await harness.device(), await harness.device()];
  await pass(10 * MINUTE_MS);
  store.writes.length = 0;
  for (let minute = 0; minute < 30; minute += 1) {
    await talker.say({ heard: minute === 0 ? devices.map(({ id }) => id) : [] });
    await pass(MINUTE_MS);
  }
  expect(store.count('presence')).toBe(1);
  expect(store.count('seen')).toBeLessThanOrEqual(6);
  expect(store.writes.length).toBe(store.count('presence') + store.count('seen'));
});

it('keeps all devices when an answer is lost, and accepts no report out of order', async () => {
  const talker = new Talker(await harness.gateway());
  const [one, two] = [await harness.device(), await harness.device()];
  harness.clock.nowMs += COMING_MS;
  await talker.say();
  // The answer didn't arrive. The next report has the same number, and repeats the changes of the lost one.
  await talker.say({ heard: [one.id] });
  talker.seq -= 1;
  const gone = [{ id: one.id, ageS: 1 }];
  expect((await talker.say({ heard: [two.id], gone })).body).toEqual({ next: 'changes' });
  expect([await presenceOf(one), await presenceOf(two)]).toEqual(['silent', 'heard']);
  talker.seq += 1;
  expect((await talker.say()).body).toEqual({ next: 'whole' });
});

it('accepts reports about the devices of a gateway’s own site, and from gateways only', async () => {
  const [talker, south] = [new Talker(await harness.gateway()), new Talker(await harness.gateway('south'))];
  const [own, foreign] = [await harness.device(), await harness.device('south')];
  await south.say({ heard: [foreign.id] });
  const turn = { product: 'camera', rollout: 'a'.repeat(16), heldS: 1, leftS: 60 };
  const turns = [own, foreign].map(({ id }) => ({ id, ...turn }));
  const ids = [own.id, foreign.id, harness.member().id, south.gateway.id];
  expect(await talker.say({ heard: ids, turns })).toMatchObject({ status: 200 });
  expect(await show(talker.gateway)).toMatchObject({ hears: { devices: 1, turns: [{ id: own.id }] } });
  await talker.say({ gone: [{ id: foreign.id, ageS: 1 }] });
  expect(await presenceOf(foreign)).toBe('heard');
  expect((await show(foreign)).heardBy).toEqual([south.gateway.id]);

  expect(await new Talker(own).say()).toMatchObject({
    status: 403,
    body: { code: 'SITECAST_GATEWAYS_ONLY' },
  });
  const tooMany = Array.from({ length: MAX_PRESENCE_IDS + 1 }, () => own.id);
  // The longest valid report is accepted. A longer one isn't even read.
  const full = tooMany.slice(1);
  const oldest = full.map(id => ({ id, ageS: 10 * 365 * 86_400 }));
  const longest = { ...turn, id: own.id, product: 'p'.repeat(64), heldS: 315_360_000, leftS: 315_360_000 };
  const most = { heard: full, gone: oldest, turns: Array.from({ length: MAX_TOLD_TURNS }, () => longest) };
  expect(await talker.say({ ...most, isWhole: false })).toMatchObject({ status: 200 });
  expect(await talker.say({ heard: Array.from({ length: 17_000 }, () => own.id) })).toMatchObject({
    status: 413,
    body: { code: 'SITECAST_BODY_TOO_LARGE' },
  });
  expect((await talker.say({ heard: tooMany.map(() => 'x') })).body.detail).not.toContain('12D3KooW');
  for (const wrong of [
    { heard: tooMany },
    { heard: ['somebody'] },
    { gone: [{ id: own.id, ageS: -1 }] },
    { seq: 0 },
    { session: 'x' },
    { turns: Array.from({ length: 65 }, () => ({ id: own.id, ...turn })) },
  ])
    expect(await talker.say(wrong as Partial<Presence>)).toMatchObject({
      status: 400,
      body: { code: 'SITECAST_REQUEST_INVALID' },
    });
});

it('bounds the reported lease times, and the entries of one gateway in the list', async () => {
  const [stolen, honest] = [new Talker(await harness.gateway()), new Talker(await harness.gateway('south'))];
  const holders = await Promise.all(Array.from({ length: 7 }, () => harness.device()));
  const waiter = await harness.device('south');
  const turn = { product: 'camera', rollout: 'a'.repeat(16) };
  const tenYearsS = 10 * 365 * 86_400;
  const turns = holders.map(({ id }) => ({ id, ...turn, heldS: tenYearsS, leftS: tenYearsS }));
  expect(await stolen.say({ turns })).toMatchObject({ status: 200 });
  await honest.say({ turns: [{ id: waiter.id, ...turn, heldS: 600, leftS: 300 }] });
  const shown: { turns?: { gateway: string; heldMs: number; leftMs: number }[] } = await harness.call(
    'GET',
    '/api/v1/presence',
  );
  expect(shown.turns?.map(({ gateway }) => gateway)).toEqual([
    ...Array.from({ length: 5 }, () => stolen.gateway.id),
    honest.gateway.id,
  ]);
  expect(shown.turns?.[0]).toMatchObject({ heldMs: 120 * MINUTE_MS, leftMs: 15 * MINUTE_MS });
  await pass(16 * MINUTE_MS);
  expect(await harness.call('GET', '/api/v1/presence')).toMatchObject({ turns: [] });
});

it('drops what a gateway reported once it or the device has moved, and asks it for a whole report', async () => {
  const talker = new Talker(await harness.gateway());
  const device = await harness.device();
  await talker.say({ heard: [device.id] });
  await harness.call('PATCH', `/api/v1/devices/${device.id}`, { site: 'south' });
  expect(await presenceOf(device)).toBe('untold');
  await harness.call('PATCH', `/api/v1/gateways/${talker.gateway.id}`, { site: 'south' });
  expect(await presenceOf(device)).toBe('untold');
  expect((await talker.say()).body).toEqual({ next: 'whole' });
});

it('ignores a gateway that went back to a version without these reports, though it sends others', async () => {
  const talker = new Talker(await harness.gateway());
  await talker.say();
  await pass(6 * MINUTE_MS);
  expect(await presenceOf(talker.gateway)).toBe('silent');
  await talker.gateway.post('/site/v1/progress', { progress: [] });
  await pass(LOOK_EVERY_MS);
  await pass(5 * MINUTE_MS);
  expect(await presenceOf(talker.gateway)).toBe('untold');
  expect(events.map(({ type }) => type).filter(type => type.startsWith('gateway.'))).toEqual([
    'gateway.silent',
    'gateway.heard',
  ]);
});

it('judges a device that fell silent during an update by its own reports, even if a gateway hears it', async () => {
  const talker = new Talker(await harness.gateway());
  const [stuck, other] = [await harness.device(), await harness.device()];
  const { id } = await harness.startRollout({ silentAfterMs: MINUTE_MS, maxFailuresBasisPoints: 0 });
  const rollout = { id: String(id), attempt: 1 };
  const report = async (device: TestMember, state: 'downloading' | 'verifying') =>
    device.sendReports([await device.next({ state, rollout })], talker.gateway);
  for (const device of [stuck, other]) await report(device, 'downloading');
  harness.clock.nowMs += MINUTE_MS + 1;
  await report(other, 'verifying');
  await talker.say({ heard: [stuck.id, other.id] });
  expect(await presenceOf(stuck)).toBe('heard');
  await harness.origin.fleet.intake.idle();
  await harness.origin.rollouts.reconcile();
  expect(await harness.call('GET', `/api/v1/rollouts/${String(id)}`)).toMatchObject({
    state: 'paused',
    stop: { why: 'silence' },
    figures: { silent: 1 },
    devices: expect.arrayContaining([
      expect.objectContaining({ id: stuck.id, overdue: 'silent', heard: true }),
    ]),
  });
});
