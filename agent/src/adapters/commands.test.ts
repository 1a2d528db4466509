import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { until } from '../testing/process.ts';
import { CommandBootControl } from './command-boot.ts';
import { runCommand } from './run-command.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-commands-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function script(text: string): Promise<string> {
  const path = join(directory, 'boot-slots');
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
  return path;
}

it('boot control by a program speaks its verbs, and takes the boot id from the kernel or from it', async () => {
  const log = join(directory, 'log');
  const path = await script(`echo "$*" >> ${log}\n[ "$1" = get ] && echo '{"booted":"B"}'\nexit 0`);
  const boot = new CommandBootControl(path, runCommand);
  const kernel = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  expect(await boot.start()).toEqual({ booted: 'B', next: 'B', bootId: kernel });
  await boot.markBad('A');
  await boot.setTrial('A', 2);
  await boot.confirm('B');
  await boot.setNext('B');
  await boot.reboot();
  expect((await readFile(log, 'utf8')).split('\n')).toEqual([
    'get',
    'mark-bad A',
    'set-trial A 2',
    'confirm B',
    'set-next B',
    'reboot',
    '',
  ]);
});

it.each([
  ['fails', 'echo broken >&2; exit 4', 'broken'],
  ['prints nonsense', 'echo hello', 'hello'],
  ['names a third slot', `echo '{"booted":"C"}'`, 'booted'],
])('boot control by a program that %s is an error that says so', async (_name, text, said) => {
  const boot = new CommandBootControl(await script(text), runCommand);
  await expect(boot.read()).rejects.toMatchObject({
    code: 'SITECAST_BOOT_COMMAND_FAILED',
    message: expect.stringContaining(said),
  });
});

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

it('a command out of time is ended with all that it started', async () => {
  const pidFile = join(directory, 'pid');
  const outcome = await runCommand(`sleep 300 & echo $! > ${pidFile}; wait`, { env: {}, timeoutMs: 300 });
  expect(outcome).toMatchObject({ isTimedOut: true });
  const pid = Number(await readFile(pidFile, 'utf8'));
  await until('the grandchild is gone', () => !isAlive(pid));
});

it('of a command that says too much, the end is kept', async () => {
  const { output, exitCode } = await runCommand('yes | head -c 1000000; echo last; exit 3', {
    env: {},
    timeoutMs: 20_000,
  });
  expect(exitCode).toBe(3);
  expect(output.length).toBeLessThanOrEqual(8192);
  expect(output.endsWith('last\n')).toBe(true);
});

it('of a command that says too much, no half of a character is kept', async () => {
  const { output } = await runCommand('yes äöü | head -n 1301; printf xxx', { env: {}, timeoutMs: 20_000 });
  expect(output.startsWith('öü\näöü\n')).toBe(true);
  expect(output).not.toContain('\ufffd');
});
