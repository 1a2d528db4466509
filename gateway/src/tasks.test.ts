import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { runTasks, type Task } from './tasks.ts';
import { memoryLog, until } from './testing/harness.ts';

/** Throws the signal's reason when it comes, as a request that is called off does. */
const calledOff: Task = signal =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

it('logs no failure of a part that is stopped', async () => {
  const log = memoryLog();
  const stop = new AbortController();
  const running = runTasks({ enrol: calledOff, follow: calledOff }, { log, signal: stop.signal });
  await sleep(1);
  stop.abort();
  await running;
  expect(log.lines).toEqual([]);
});

it('starts a part again that failed, beside the others, and logs that', async () => {
  const log = memoryLog();
  const stop = new AbortController();
  const started = { flaky: 0, steady: 0 };
  const flaky: Task = async signal => {
    started.flaky += 1;
    if (started.flaky === 1) throw new TypeError('a mistake of ours');
    await calledOff(signal);
  };
  const steady: Task = async signal => {
    started.steady += 1;
    await calledOff(signal);
  };
  const running = runTasks({ flaky, steady }, { log, signal: stop.signal, restartAfterMs: 1 });
  await until(() => started.flaky === 2, 'the part to start again');
  stop.abort();
  await running;
  expect(started).toEqual({ flaky: 2, steady: 1 });
  expect(log.lines).toMatchObject([{ level: 'error', fields: { part: 'flaky' } }]);
});

it('logs what goes wrong while a part is stopped', async () => {
  const log = memoryLog();
  const stop = new AbortController();
  const broken: Task = async signal => {
    await calledOff(signal).catch(() => {
      throw new TypeError('a mistake of ours');
    });
  };
  const running = runTasks({ broken }, { log, signal: stop.signal });
  await sleep(1);
  stop.abort();
  await running;
  expect(log.lines).toMatchObject([{ level: 'error', fields: { part: 'broken' } }]);
});
