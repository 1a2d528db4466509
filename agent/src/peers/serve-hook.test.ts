import { expect, it } from 'vitest';
import { runCommand } from '../adapters/run-command.ts';
import { ServeHook, serveHook } from './admission.ts';

it('without a command, always serves chunks', () => {
  const hook = serveHook(
    { hooks: {}, hookTimeoutMs: 1000, product: 'camera' },
    runCommand,
    new AbortController().signal,
  );
  expect(hook.isWelcome).toBe(true);
});

it('with a command, decides by its exit code, and serves nothing before the first result', async () => {
  const answers: boolean[] = [];
  for (const command of ['exit 0', 'exit 75', 'exit 1', 'sleep 5']) {
    const runs: Promise<unknown>[] = [];
    const run: typeof runCommand = (...args) => {
      const running = runCommand(...args);
      runs.push(running);
      return running;
    };
    const settings = { hooks: { serve: command }, hookTimeoutMs: 300, product: 'camera' };
    const hook = serveHook(settings, run, new AbortController().signal);
    expect(hook.isWelcome).toBe(false);
    await Promise.all(runs);
    await new Promise(resolve => setImmediate(resolve));
    answers.push(hook.isWelcome);
  }
  expect(answers).toEqual([true, false, false, false]);
});

it('runs the command now and then, not for every chunk', async () => {
  let nowMs = 0;
  let asked = 0;
  const hook = new ServeHook(
    async () => {
      asked += 1;
      return true;
    },
    () => nowMs,
  );
  for (let chunk = 0; chunk < 100; chunk += 1) void hook.isWelcome;
  expect(asked).toBe(1);
  nowMs = 16_000;
  void hook.isWelcome;
  expect(asked).toBe(2);
});
