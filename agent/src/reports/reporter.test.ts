import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isReportPayload } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { array, assert, asyncProperty, integer } from 'fast-check';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../adapters/system-clock.ts';
import type { Log } from '../ports.ts';
import { Outbox } from './outbox.ts';
import { StateChangeLogger } from './state-change-logger.ts';
import { Reporter } from './reporter.ts';

let directory: string;
let outbox: Outbox;
let reporter: Reporter;
const logged: object[] = [];
const log: Log = (level, message, data) => void (level === 'error' && logged.push({ message, ...data }));

beforeEach(async () => {
  logged.length = 0;
  directory = await mkdtemp(join(tmpdir(), 'sitecast-reporter-'));
  outbox = await Outbox.open(directory, await Identity.open(directory));
  const inventory = { product: 'camera' };
  reporter = new Reporter({
    outbox,
    clock: systemClock('yes'),
    stateChanges: new StateChangeLogger(log),
    facts: () => ({ timestampVersion: 1, inventory }),
  });
});
afterEach(async () => {
  await outbox.close();
  await rm(directory, { recursive: true, force: true });
});

it('reports each state once, whatever its text, and nothing that a reader would refuse', async () => {
  const anyText = array(integer({ min: 0, max: 0xffff }), { maxLength: 1100 });
  let attempt = 0;
  await assert(
    asyncProperty(anyText, async units => {
      attempt += 1;
      const reason = { code: String.fromCharCode(...units), message: String.fromCharCode(...units) };
      const subject = { rollout: { id: '0123456789abcdef', attempt }, reason };
      await reporter.report('failed', subject, true);
      await reporter.report('failed', subject);
      await reporter.report('rolledBack', subject, true);
      await reporter.report('failed', subject, true);
    }),
    { numRuns: 20 },
  );
  expect(outbox.recent().map(({ state, rollout }) => `${state} ${rollout?.attempt}`)).toEqual(
    Array.from({ length: attempt }, (_, at) => [`failed ${at + 1}`, `rolledBack ${at + 1}`]).flat(),
  );
  for (const { envelope } of outbox.pending())
    expect(isReportPayload(Buffer.from(envelope.payload, 'base64'))).toBe(true);
});

it('tells a wait anew whose figures changed, and what goes on after it; not each time where that goes on and on', async () => {
  const update = {
    rollout: { id: '0123456789abcdef', attempt: 1 },
    release: { counter: 2, version: '2.0.0' },
  };
  const waits = (message: string) =>
    reporter.report('waiting', { ...update, reason: { code: 'SITECAST_PLAN_TOO_LARGE', message } });
  await reporter.report('downloading', update, true);
  await waits('--max-bytes allows 1 MiB');
  await waits('--max-bytes allows 1 MiB');
  await waits('--max-bytes allows 2 MiB');
  await reporter.report('downloading', update, true);
  await reporter.report('downloading', update, true);
  const said = () =>
    outbox.recent().map(({ state, reason }) => `${state} ${reason?.message.slice(-5) ?? ''}`.trim());
  expect(said()).toEqual(['downloading', 'waiting 1 MiB', 'waiting 2 MiB', 'downloading']);
  const before = outbox.newest?.seq ?? 0;
  for (let times = 0; times < 1000; times += 1) {
    await waits(`--max-bytes allows ${times} MiB`);
    await reporter.report('downloading', update, true);
  }
  // Each goes on after a wait, of which no more are told anew than the bound.
  expect((outbox.newest?.seq ?? 0) - before).toBeLessThan(10);
  await reporter.report('failed', update, true);
  await waits('--max-bytes allows 3 MiB');
  await reporter.report('failed', update, true);
  expect(outbox.recent().filter(({ state }) => state === 'failed')).toHaveLength(1);
});

it('tells at once that nothing can be recorded, and that it can again', async () => {
  const told: (string | undefined)[] = [];
  let isFull = true;
  const append: Outbox['append'] = async event => {
    if (isFull) throw Object.assign(new Error('no room'), { code: 'ENOSPC', errno: -28, syscall: 'write' });
    return outbox.append(event);
  };
  const full = new Reporter({
    outbox: { append, recent: () => [], pendingBytes: 0 },
    clock: systemClock('yes'),
    stateChanges: new StateChangeLogger(log),
    facts: () => ({ timestampVersion: 1, inventory: { product: 'camera' } }),
    onProblem: problem => told.push(problem),
  });
  await full.report('idle');
  await full.report('downloading');
  expect([told, full.problem]).toEqual([['no room'], 'no room']);
  isFull = false;
  await full.flush();
  expect([told, full.problem]).toEqual([['no room', undefined], undefined]);
});

it('logs what can never be reported, and continues with what follows', async () => {
  const unknown = { state: 'idle' as const };
  Object.assign(unknown, { state: 'no state of a device' });
  await Promise.all([
    reporter.report('downloading'),
    reporter.report(unknown.state),
    reporter.report('verifying'),
  ]);
  expect(outbox.recent().map(({ state }) => state)).toEqual(['downloading', 'verifying']);
  expect(logged).toEqual([
    {
      message: expect.stringMatching(/^the origin isn't told of the state no state of a device: /),
      code: 'SITECAST_REPORT_UNTELLABLE',
    },
  ]);
  expect(reporter.problem).toBeUndefined();
});

it('records concurrent events in their order, each once', async () => {
  const states = ['downloading', 'verifying', 'installing', 'rebooting', 'confirming'] as const;
  await Promise.all(states.map(state => reporter.report(state)));
  expect(outbox.recent().map(({ state }) => state)).toEqual(states);
});

it('records what it waits for once while much waits for the origin, and everything else as usual', async () => {
  const waitFor = (code: string) =>
    reporter.report('waiting', { reason: { code, message: 'x'.repeat(1000) } });
  const flap = async (times: number) => {
    for (let at = 0; at < times; at += 1) await waitFor(at % 2 === 0 ? 'ONE' : 'OTHER');
  };
  await flap(100);
  const { length } = outbox.pending();
  expect(outbox.pendingBytes).toBeGreaterThan(64 * 1024);
  expect(outbox.pendingBytes).toBeLessThan(70 * 1024);
  expect(length).toBeLessThan(50);
  const rollout = { id: '0123456789abcdef', attempt: 1 };
  await reporter.report('failed', { rollout });
  await waitFor('A THIRD');
  await reporter.report('completed', { rollout });
  expect(outbox.pending()).toHaveLength(length + 3);
  await outbox.acknowledge(outbox.epoch, outbox.newest?.seq ?? 0, Date.now());
  await flap(4);
  expect(outbox.pending()).toHaveLength(4);
});
