import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BootProgram } from '../testing/boot-program.ts';
import { isAlive, until } from '../testing/process.ts';
import { CommandBootControl } from './command-boot.ts';
import { runCommand } from './run-command.ts';
import { systemClock } from './system-clock.ts';

let directory: string;
let stop: AbortController;
const logged: string[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-commands-'));
  stop = new AbortController();
  logged.length = 0;
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const system = systemClock('auto');
/** A pause of a second takes only a millisecond. */
const clock = { sleep: (ms: number, signal?: AbortSignal) => system.sleep(ms / 1000, signal) };
const bootBy = (command: string, now = () => Date.now()) =>
  new CommandBootControl(command, {
    run: runCommand,
    clock: { ...clock, now },
    log: (_level, message) => logged.push(message),
    stop: stop.signal,
  });
const run = (command: string, options: Partial<Parameters<typeof runCommand>[1]> = {}) =>
  runCommand(command, { env: {}, timeoutMs: 60_000, ...options });

async function script(text: string): Promise<string> {
  const path = join(directory, 'boot-slots');
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
  return path;
}

it("boot control by a program calls the program's verbs, and takes the boot id from the kernel or from the program", async () => {
  const log = join(directory, 'log');
  const path = await script(`echo "$*" >> ${log}\n[ "$1" = get ] && echo '{"booted":"B"}'\nexit 0`);
  const boot = bootBy(path);
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
])('boot control by a program that %s is an error with a reason', async (_name, text, said) => {
  const boot = bootBy(await script(text));
  await expect(boot.read()).rejects.toMatchObject({
    code: 'SITECAST_BOOT_COMMAND_FAILED',
    message: expect.stringContaining(said),
  });
});

const isThere = (name: string) =>
  stat(join(directory, name)).then(
    () => true,
    () => false,
  );
const pidIn = async (name: string) => Number(await readFile(join(directory, name), 'utf8'));

describe('boot control by a program', () => {
  it('reads only its standard output; its warnings are logged once', async () => {
    const boot = bootBy((await BootProgram.create(directory)).command);
    expect(await boot.start()).toEqual({ booted: 'A', next: 'A', bootId: 'boot-1' });
    await boot.read();
    expect(logged).toEqual(["boot control 'get' says: a warning, for people"]);
  });

  it('logs varying warnings a few times an hour, with their number', async () => {
    const path = await script(
      `cd ${directory}; echo x >> n; echo "call $(wc -l < n)" >&2; echo '{"booted":"A"}'; exit 0`,
    );
    let nowMs = 0;
    const boot = bootBy(path, () => nowMs);
    for (let calls = 0; calls < 6; calls += 1) await boot.read();
    const says = (what: string) => `boot control 'get' says: ${what}`;
    expect(logged).toEqual([says('call 1'), says('call 2'), says('call 3')]);
    nowMs = 3_599_999;
    await boot.read();
    // The bound applies to each verb separately.
    await boot.confirm('A');
    nowMs = 3_600_000;
    await boot.read();
    expect(logged.slice(3)).toEqual([
      "boot control 'confirm A' says: call 8",
      says('call 9 (and 4 times something else in the last hour)'),
    ]);
  });

  it('calls a failed verb again, and gives up after three failures', async () => {
    const program = await BootProgram.create(directory);
    const boot = bootBy(program.command);
    await program.fail('set-trial', 2);
    await boot.setTrial('B', 2);
    expect((await boot.read()).next).toBe('B');
    expect(logged.filter(line => line.includes('set-trial is broken'))).toHaveLength(2);
    await program.fail('set-trial', 3);
    await expect(boot.setTrial('B', 2)).rejects.toMatchObject({ code: 'SITECAST_BOOT_COMMAND_FAILED' });
  });

  it('lets processes that the reboot verb left running live and write, and ends those of other verbs', async () => {
    const late = '(sleep 1; echo going down; echo really >&2; touch came) &';
    const left = 'sleep 300 & echo $! > left';
    const path = await script(
      `cd ${directory}; case $1 in reboot) ${late} ;; confirm) ${left} ;; esac; exit 0`,
    );
    const boot = bootBy(path);
    await boot.confirm('A');
    const pid = await pidIn('left');
    await until('what the other verb left is gone', () => !isAlive(pid));
    await boot.reboot();
    await until('the boot has come', () => isThere('came'));
    expect(isAlive(pid)).toBe(false);
  });

  it('lets a verb that changes something finish when it is stopped, and does not wait for an answer or a boot', async () => {
    const slow = 'touch began; sleep 1; touch done';
    const path = await script(
      `cd ${directory}; case $1 in get) touch asked; sleep 300 ;; reboot) touch rebooting; sleep 1; touch came ;; confirm) ${slow} ;; esac`,
    );
    const boot = bootBy(path);
    const confirming = boot.confirm('A');
    const reading = boot.read();
    const rebooting = boot.reboot();
    await until('all are under way', async () =>
      (await Promise.all(['began', 'asked', 'rebooting'].map(isThere))).every(Boolean),
    );
    const reason = new Error('stopped');
    stop.abort(reason);
    expect(await Promise.allSettled([reading, rebooting, confirming])).toMatchObject([
      { status: 'rejected', reason },
      { status: 'rejected', reason },
      { status: 'fulfilled' },
    ]);
    expect(await isThere('done')).toBe(true);
    await until('the boot has come all the same', () => isThere('came'));
    await expect(boot.setNext('B')).rejects.toThrow('stopped');
  });
});

describe('a command', () => {
  it('is ended with all its processes when its time is over', async () => {
    const outcome = await run(`sleep 300 & echo $! > ${directory}/pid; wait`, { timeoutMs: 300 });
    expect(outcome).toMatchObject({ isTimedOut: true });
    const pid = await pidIn('pid');
    await until('the grandchild is gone', () => !isAlive(pid));
  });

  it('is ended with all its processes when it is aborted, even if it ignores the signal', async () => {
    const stubborn = `trap '' TERM; echo $$ > ${directory}/pid; while :; do sleep 1; done`;
    const running = run(stubborn, { signal: stop.signal });
    await until('it runs', async () => (await isThere('pid')) && (await pidIn('pid')) > 0);
    stop.abort(new Error('stopped'));
    await expect(running).rejects.toThrow('stopped');
    expect(isAlive(await pidIn('pid'))).toBe(false);
    await expect(run(`touch ${directory}/late`, { signal: stop.signal })).rejects.toThrow('stopped');
    expect(await isThere('late')).toBe(false);
  });

  it('with too much output runs to its end; each stream is shortened separately', async () => {
    const { output, stdout, stderr, exitCode } = await run(
      'echo warned >&2; yes | head -c 1000000; echo last; exit 3',
    );
    expect(exitCode).toBe(3);
    expect(output.length).toBeLessThanOrEqual(8192);
    expect(output.endsWith('last\n')).toBe(true);
    expect(stdout.endsWith('last\n')).toBe(true);
    expect(stdout).not.toContain('warned');
    expect(stderr).toBe('warned\n');
  });
});

it('with shortened output never begins it within a character', async () => {
  const { output } = await runCommand('yes äöü | head -n 1301; printf xxx', { env: {}, timeoutMs: 20_000 });
  expect(output.startsWith('öü\näöü\n')).toBe(true);
  expect(output).not.toContain('\ufffd');
});
