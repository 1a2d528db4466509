import { execFileSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FleetRepository } from '@sitecast/shared/testing/origin';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AgentProcess, until } from '../testing/process.ts';
import { systemClock } from './system-clock.ts';
import { HardwareWatchdog, wellness } from './watchdogs.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-watchdogs-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const textOf = (name: string) => readFile(join(directory, name), 'utf8').catch(() => '');

/** An agent without a reachable gateway. `systemd-notify` is a script that logs its arguments. */
async function start(env: Record<string, string>, ...flags: string[]): Promise<AgentProcess> {
  const bin = join(directory, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'systemd-notify'), `#!/bin/sh\necho "$*" >> '${directory}/told'\n`);
  await chmod(join(bin, 'systemd-notify'), 0o755);
  const root = join(directory, 'root.json');
  await writeFile(root, (await FleetRepository.create()).rootBytes);
  return new AgentProcess(
    [
      'run',
      `--data=${join(directory, 'data')}`,
      '--gateway=http://127.0.0.1:1',
      '--product=camera',
      '--hardware=rpi4',
      `--slot-a=${join(directory, 'a')}`,
      `--slot-b=${join(directory, 'b')}`,
      `--root=${root}`,
      '--no-peers',
      ...flags,
    ],
    { PATH: `${bin}:${process.env.PATH}`, ...env },
  );
}

describe('a unit of Type=notify', () => {
  it('is told at once that the agent is ready and alive, also while no gateway answers', async () => {
    const agent = await start({ NOTIFY_SOCKET: join(directory, 'socket'), WATCHDOG_USEC: '300000' });
    await until('it is alive', async () => (await textOf('told')).split('WATCHDOG=1').length > 3);
    expect((await textOf('told')).split('\n')[0]).toBe('READY=1');
    await agent.stop();
  }, 30_000);

  it('is told nothing where no one listens, or the watchdog is meant for another process', async () => {
    const silent = await start({ WATCHDOG_USEC: '300000' }, '--watchdog', join(directory, 'none'));
    await until('it runs', () => silent.stderr.includes("the watchdog isn't fed"));
    await silent.stop();
    expect(await textOf('told')).toBe('');
  }, 30_000);
});

it("the machine's watchdog is fed from the start on, and stopped with the agent", async () => {
  await writeFile(join(directory, 'watchdog'), '');
  const agent = await start({}, '--watchdog', join(directory, 'watchdog'));
  await until('it is fed', async () => (await textOf('watchdog')).length >= 2);
  await agent.stop();
  expect(await textOf('watchdog')).toSatisfy(
    (text: string) => text.replaceAll('\0', '') === 'V' && text.endsWith('V'),
  );
}, 30_000);

it("the machine's watchdog is not stopped where the agent is killed", async () => {
  await writeFile(join(directory, 'watchdog'), '');
  const agent = await start({}, '--watchdog', join(directory, 'watchdog'));
  await until('it is fed', async () => (await textOf('watchdog')).length >= 1);
  await agent.stop('SIGKILL');
  expect(await textOf('watchdog')).toSatisfy((text: string) => text.replaceAll('\0', '') === '');
}, 30_000);

it("the machine's watchdog is not fed while the agent is unwell, and is again afterwards", async () => {
  const path = join(directory, 'watchdog');
  await writeFile(path, '');
  const stop = new AbortController();
  const logged: string[] = [];
  const clock = { sleep: (_ms: number, signal?: AbortSignal) => systemClock('auto').sleep(5, signal) };
  const log = (_level: string, message: string) => void logged.push(message);
  const watchdog = await HardwareWatchdog.open(path, { clock, log, stop: stop.signal });
  if (typeof watchdog === 'string') throw new Error(watchdog);
  let asked = 0;
  let fedWhileUnwell = '?';
  const feeding = watchdog.feed(async () => {
    asked += 1;
    if (asked === 5) fedWhileUnwell = await textOf('watchdog');
    return asked > 5;
  });
  await until('it is fed', async () => (await textOf('watchdog')).length > 1);
  stop.abort();
  await feeding;
  await watchdog.close();
  expect(fedWhileUnwell).toBe('');
  expect(logged).toEqual(["the disk of --data doesn't answer: no watchdog is fed until it does"]);
});

describe('the agent is', () => {
  const system = systemClock('auto');
  const clock = { sleep: (ms: number, signal?: AbortSignal) => system.sleep(ms / 100, signal) };
  const context = { clock, log: () => {}, stop: new AbortController().signal };

  it('well while the disk answers, whatever the answer is', async () => {
    expect(await wellness(directory, context)()).toBe(true);
    expect(await wellness(join(directory, 'gone'), context)()).toBe(true);
  });

  it('not well while the disk does not answer', async () => {
    // Opening a pipe without a writer hangs, like a dead disk.
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const isStillWell = wellness(pipe, context);
    expect([await isStillWell(), await isStillWell()]).toEqual([false, false]);
    await writeFile(pipe, '');
    await until('it answers', isStillWell);
  }, 30_000);
});
