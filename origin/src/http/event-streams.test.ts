import { SitecastError } from '@sitecast/shared/errors';
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { EventLog, MAX_EVENT_BYTES, MAX_KEPT_EVENTS } from '../events/event-log.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { temporaryDirectory } from '../testing/setup.ts';
import { spawnOrigin } from '../testing/spawned.ts';
import type { OriginEnv } from './context.ts';
import { EventStreams, HEARTBEAT_MS, MAX_EVENT_STREAMS, MAX_STALL_MS } from './event-streams.ts';

interface Received {
  event: string;
  id: string;
  data: Record<string, unknown>;
}

/** Reads server-sent events one by one. */
class EventReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #text = '';

  constructor(response: Response) {
    if (!response.body) throw new Error('no body');
    this.#reader = response.body.getReader();
  }

  /** The next block of lines; undefined at the end of the stream. */
  async block(): Promise<string | undefined> {
    while (!this.#text.includes('\n\n')) {
      const { done, value } = await this.#reader.read();
      if (done) return undefined;
      this.#text += Buffer.from(value).toString();
    }
    const end = this.#text.indexOf('\n\n');
    const block = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 2);
    return block;
  }

  async next(): Promise<Received> {
    const block = (await this.block()) ?? '';
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
    return { event: field('event'), id: field('id'), data: JSON.parse(field('data') || '{}') };
  }

  cancel(): Promise<void> {
    return this.#reader.cancel();
  }
}

describe('a stream of events', () => {
  let events: EventLog;
  let streams: EventStreams;
  let app: Hono<OriginEnv>;
  let timers: { delayMs: number; act: () => void }[] = [];
  let mayRead: boolean;
  const readers: EventReader[] = [];

  beforeEach(() => {
    timers = [];
    mayRead = true;
    events = new EventLog(() => 0);
    streams = new EventStreams(events, (delayMs, act) => {
      const timer = { delayMs, act };
      timers.push(timer);
      return () => {
        timers = timers.filter(other => other !== timer);
      };
    });
    app = new Hono<OriginEnv>().get('/', c =>
      streams.open(c, {
        rollout: c.req.query('rollout'),
        lastEventId: c.req.header('last-event-id'),
        checkMay: () => {
          if (!mayRead) throw new Error('revoked');
        },
      }),
    );
    app.onError(error => new Response(error instanceof SitecastError ? error.code : ''));
  });
  afterEach(async () => {
    streams.close();
    await Promise.all(readers.splice(0).map(reader => reader.cancel()));
  });

  async function open(query = '', lastEventId?: string): Promise<EventReader> {
    const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId };
    const response = await app.request(`/${query}`, { headers });
    const reader = new EventReader(response);
    readers.push(reader);
    return reader;
  }

  function elapse(delayMs: number): void {
    const due = timers.filter(timer => timer.delayMs === delayMs);
    timers = timers.filter(timer => !due.includes(timer));
    for (const { act } of due) act();
  }

  const emit = (rollout: string, step: number) =>
    events.emit({ type: 'rollout.stage', rollout, data: { step } });
  const id = (seq: number) => `${events.epoch}-${seq}`;

  it('begins with the present, and brings new events, of one rollout if asked', async () => {
    emit('a', 1);
    const [all, some] = [await open(), await open('?rollout=b')];
    expect(await all.next()).toEqual({ event: 'ready', id: id(1), data: {} });
    expect(await some.next()).toMatchObject({ event: 'ready' });
    emit('a', 2);
    emit('b', 3);
    const second = { rollout: 'a', at: '1970-01-01T00:00:00.000Z', data: { step: 2 } };
    expect(await all.next()).toEqual({ event: 'rollout.stage', id: id(2), data: second });
    expect(await all.next()).toMatchObject({ id: id(3) });
    expect(await some.next()).toMatchObject({ id: id(3), data: { rollout: 'b' } });
  });

  it('continues after the event that was seen last', async () => {
    for (const step of [1, 2, 3]) emit('a', step);
    const reader = await open('', id(1));
    expect([await reader.next(), await reader.next(), await reader.next()]).toMatchObject([
      { event: 'ready', id: id(1) },
      { id: id(2), data: { data: { step: 2 } } },
      { id: id(3) },
    ]);
  });

  it('says that events are lost: those of another process, too old ones, and unknown ones', async () => {
    for (let step = 1; step <= MAX_KEPT_EVENTS + 1; step += 1) emit('a', step);
    const newest = MAX_KEPT_EVENTS + 1;
    for (const lost of [`${'0'.repeat(16)}-1`, id(0), id(newest + 1), 'x', '']) {
      expect(await (await open('', lost)).next()).toEqual({ event: 'resync', id: id(newest), data: {} });
    }
    const oldest = await open('', id(1));
    expect(await oldest.next()).toMatchObject({ event: 'ready' });
    expect(await oldest.next()).toMatchObject({ id: id(2) });
  });

  it('tells a reader that it has fallen behind', async () => {
    const reader = await open();
    for (let step = 0; step <= MAX_KEPT_EVENTS; step += 1) emit('a', step);
    expect(await reader.next()).toMatchObject({ event: 'ready', id: id(0) });
    expect(await reader.next()).toMatchObject({ event: 'resync', id: id(MAX_KEPT_EVENTS + 1) });
  });

  it('sends heartbeats, and moves on past events that the reader doesn’t want', async () => {
    const reader = await open('?rollout=b');
    await reader.next();
    emit('a', 1);
    const beat = reader.block();
    await new Promise(resolve => setImmediate(resolve));
    elapse(HEARTBEAT_MS);
    expect(await beat).toBe(`: \nid: ${id(1)}`);
  });

  it('ends when the reader’s token is no longer valid', async () => {
    const reader = await open();
    await reader.next();
    mayRead = false;
    await new Promise(resolve => setImmediate(resolve));
    elapse(HEARTBEAT_MS);
    expect(await reader.block()).toBeUndefined();
  });

  it('is dropped when its reader accepts no bytes', async () => {
    const response = await app.request('/');
    expect(response.status).toBe(200);
    for (let step = 0; step < 500; step += 1) emit('a', step);
    await new Promise(resolve => setImmediate(resolve));
    expect(streams.count).toBe(1);
    elapse(MAX_STALL_MS);
    await new Promise(resolve => setImmediate(resolve));
    expect(streams.count).toBe(0);
  });

  it(`is one of at most ${MAX_EVENT_STREAMS}; a stream that ends makes room`, async () => {
    for (let count = 0; count < MAX_EVENT_STREAMS; count += 1) await open();
    expect(streams.count).toBe(MAX_EVENT_STREAMS);
    expect(await (await app.request('/')).text()).toBe('SITECAST_BUSY');
    await readers.pop()?.cancel();
    await new Promise(resolve => setImmediate(resolve));
    expect((await (await open()).next()).event).toBe('ready');
  });

  it(`leaves out data of more than ${MAX_EVENT_BYTES} bytes`, async () => {
    const reader = await open();
    await reader.next();
    events.emit({ type: 'x', data: { text: 'x'.repeat(MAX_EVENT_BYTES) } });
    expect(await reader.next()).toMatchObject({ data: { data: { omittedBytes: expect.any(Number) } } });
  });
});

describe("# 'the origin'", () => {
  let harness: FleetHarness;
  beforeAll(async () => {
    harness = await FleetHarness.open(path => testDisk(path));
  });
  afterAll(() => harness.close());

  it('emits an event for each device that enters another state', async () => {
    const device = await harness.device();
    await harness.call('PATCH', `/api/v1/devices/${device.id}`, { name: 'cam-1' });
    const { id } = await harness.startRollout();
    const rollout = { id: String(id), attempt: 1 };
    const headers = { authorization: `Bearer ${harness.origin.adminToken}` };
    const reader = new EventReader(await harness.ask(`/api/v1/events?rollout=${rollout.id}`, { headers }));
    expect(await reader.next()).toMatchObject({ event: 'ready' });
    const reason = { code: 'healthFailed', message: 'no picture' };
    for (const said of [{ state: 'downloading' as const }, { state: 'downloading' as const }])
      await device.report({ rollout, ...said });
    await device.report({ rollout, state: 'failed', reason });
    const about = { rollout: rollout.id, device: device.id, name: 'cam-1' };
    expect([await reader.next(), await reader.next()]).toMatchObject([
      { event: 'device.outcome', data: { ...about, data: { state: 'downloading' } } },
      { event: 'device.outcome', data: { ...about, data: { attempt: 1, state: 'failed', reason } } },
    ]);
    await reader.cancel();
  });
});

it('an origin that is stopped ends its streams', async () => {
  const directory = temporaryDirectory();
  const origin = await spawnOrigin(directory.path);
  const reader = new EventReader(await origin.operator.ask('/api/v1/events'));
  expect(await reader.next()).toMatchObject({ event: 'ready' });
  expect(await origin.stop()).toBe(0);
  expect(await reader.block()).toBeUndefined();
  await directory.remove();
});
