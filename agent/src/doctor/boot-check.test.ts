import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CommandBootControl } from '../adapters/command-boot.ts';
import { runCommand } from '../adapters/run-command.ts';
import { systemClock } from '../adapters/system-clock.ts';
import { examine } from '../examine.ts';
import { BootProgram } from '../testing/boot-program.ts';
import { checkBoot } from './boot-check.ts';
import type { MachineFacts } from './findings.ts';
import { loaderFindings } from './loader-check.ts';
import type { DoctorSettings } from '../settings.ts';
import { BOOT_MACHINES } from '../testing/boot-machines.ts';
import { AgentProcess } from '../testing/process.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-doctor-'));
  await mkdir(join(directory, 'sys/class/watchdog'), { recursive: true });
  await writeFile(join(directory, 'cmdline'), 'quiet\n');
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const flags = () => ({
  data: join(directory, 'data'),
  slots: { A: join(directory, 'a'), B: join(directory, 'b') },
  isHealthChecked: true,
  watchdog: undefined,
});
const places = () => ({ sys: join(directory, 'sys'), commandLineFile: join(directory, 'cmdline') });

async function examined(
  command: string,
  isExercised = false,
  more: Partial<DoctorSettings> = {},
): Promise<string[]> {
  const stop = new AbortController().signal;
  const settings = { ...flags(), boot: { kind: 'command', command } as const, ...more };
  const findings = await examine(settings, { isExercised, stop, places: places() });
  return findings.map(({ level, text }) => `${level}: ${text}`);
}

async function script(text: string): Promise<string> {
  const path = join(directory, 'program');
  await writeFile(path, `#!/bin/sh\ncd ${directory}\n${text}\n`);
  await chmod(path, 0o755);
  return path;
}

const NO_WATCHDOG =
  'warning: there is no watchdog: a kernel that hangs before user space stays there, and the loader gets no other turn';

it('accepts a boot program that keeps to the contract, and changes nothing unless asked to', async () => {
  const program = await BootProgram.create(directory);
  expect(await examined(program.command)).toEqual([
    expect.stringMatching(/^warning: boot control 'get' says: a warning, for people/),
    'ok: slot A runs, and slot A comes next; boot boot-1',
    "warning: the boot control doesn't say how many starts of a slot on trial it counts: 2 are assumed",
    'ok: a start is counted before the slot gets control',
    'ok: a change survives a power cut as a whole',
    NO_WATCHDOG,
  ]);
  expect(new Set(await program.calls())).toEqual(new Set(['get']));
});

it('exercises each change twice, and leaves the running slot as the one to boot', async () => {
  const program = await BootProgram.create(directory);
  const found = await examined(program.command, true);
  expect(found.filter(line => /mark-bad|set-/.test(line))).toEqual([
    'ok: mark-bad B: slot A comes next',
    'ok: set-trial B 2: slot B comes next',
    'ok: set-next A: slot A comes next',
    'ok: mark-bad B: slot A comes next',
  ]);
  const calls = (await program.calls()).filter(call => call !== 'get');
  expect(calls).toEqual([
    'mark-bad B',
    'mark-bad B',
    'set-trial B 2',
    'set-trial B 2',
    'set-next A',
    'set-next A',
    'mark-bad B',
    'mark-bad B',
    'set-next A',
  ]);
  await program.boot();
  expect(await program.get('booted')).toBe('A');
});

describe('finds the fault of a boot program that', () => {
  it.each([
    ['prints no JSON', 'echo A', "problem: the boot control answers: no: boot control 'get' failed"],
    [
      'says another boot each time',
      `echo x >> n; echo "{\\"booted\\":\\"A\\",\\"bootId\\":\\"$(wc -l < n)\\"}"`,
      'problem: asked twice within one boot',
    ],
    [
      'does not know what its loader can do',
      `echo '{"booted":"A"}'`,
      "warning: the boot control doesn't say whether a start that hangs is counted",
    ],
    [
      'counts one start',
      `echo '{"booted":"A","maxTries":1,"isAtomic":false}'`,
      'warning: it counts 1 start of a slot on trial, not 2',
    ],
    [
      'is not power-safe',
      `echo '{"booted":"A","isAtomic":false}'`,
      'warning: not so: a change survives a power cut as a whole',
    ],
  ])('%s', async (_what, text, line) => {
    expect(await examined(await script(text))).toContainEqual(expect.stringContaining(line));
  });

  it('names another slot than the kernel', async () => {
    await writeFile(join(directory, 'cmdline'), 'root=/dev/x sitecast.slot=B\n');
    const program = await BootProgram.create(directory);
    expect(await examined(program.command)).toContain(
      'problem: it says that slot A runs; the machine says slot B',
    );
  });

  it('ignores a change', async () => {
    const path = await script(`[ "$1" = get ] && echo '{"booted":"A"}'; exit 0`);
    expect(await examined(path, true)).toContain(
      'problem: set-trial B 2: slot A comes next, and it should be slot B',
    );
  });
});

describe('reports about the watchdog', () => {
  const identities = async (...names: string[]) => {
    for (const [at, name] of names.entries()) {
      const path = join(directory, `sys/class/watchdog/watchdog${at}`);
      await mkdir(path);
      await writeFile(join(path, 'identity'), `${name}\n`);
    }
  };
  const last = async () => (await examined((await BootProgram.create(directory)).command)).at(-1) ?? '';

  it('that there is none', async () => {
    expect(await last()).toBe(NO_WATCHDOG);
  });

  it('that the one of the kernel starts too late', async () => {
    await identities('Software Watchdog');
    expect(await last()).toContain(
      "warning: there is a watchdog of the kernel's alone, watchdog0 (Software Watchdog)",
    );
  });

  it('that nothing shows whether there is one', async () => {
    await identities('Software Watchdog', 'i6300ESB timer');
    expect(await last()).toContain('warning: nothing says that');
  });

  it('that the kernel knows none, whatever its command line says', async () => {
    await writeFile(join(directory, 'cmdline'), 'sitecast.watchdog=armed\n');
    expect(await last()).toBe(
      "problem: sitecast.watchdog=armed is on the kernel's command line, and the kernel knows no watchdog",
    );
  });

  it('that the one of the settings is not there', async () => {
    const { command } = await BootProgram.create(directory);
    const watchdog = join(directory, 'watchdog');
    const found = await examined(command, false, { watchdog });
    expect(found.at(-1)).toMatch(/^problem: --watchdog: .* isn't fed: .*no such file/i);
  });

  it('that the boot loader arms one', async () => {
    await identities('i6300ESB timer');
    await writeFile(join(directory, 'cmdline'), 'sitecast.watchdog=armed\n');
    expect(await last()).toBe('ok: the loader arms a watchdog before it starts the kernel');
    const parameters = join(directory, 'sys/module/watchdog/parameters');
    await mkdir(parameters, { recursive: true });
    await writeFile(join(parameters, 'open_timeout'), '0\n');
    expect(await last()).toContain(
      'warning: the loader arms a watchdog, and the kernel feeds it until something opens it',
    );
  });
});

describe('with GRUB', () => {
  const script = () => readFile(new URL('../../../deploy/boot/grub/grub.cfg', import.meta.url));
  const grubenv = () => join(directory, 'grubenv');
  const looked = async () =>
    examined('', false, { boot: { kind: 'grub', grubenv: grubenv(), rebootCommand: 'true' } });
  beforeEach(async () => {
    await BOOT_MACHINES.grub.create(directory);
    await writeFile(join(directory, 'cmdline'), 'sitecast.slot=A\n');
  });

  it('says what grub.cfg does only where it is the shipped one', async () => {
    await writeFile(join(directory, 'grub.cfg'), await script());
    const counts = 'ok: a start is counted before the slot gets control';
    expect(await looked()).toEqual([
      expect.stringMatching(/^ok: slot A runs, and slot A comes next/),
      'ok: it counts up to 3 starts of a slot on trial',
      counts,
      'ok: a change survives a power cut as a whole',
      NO_WATCHDOG,
    ]);
    await writeFile(join(directory, 'grub.cfg'), 'set timeout=5\nblscfg\n');
    const foreign = await looked();
    expect(foreign).not.toContain(counts);
    expect(foreign).toContainEqual(
      expect.stringMatching(/^warning: not checked: whether a start .*isn't Sitecast's/),
    );
    await rm(join(directory, 'grub.cfg'));
    const missing = await looked();
    expect(missing).not.toContain(counts);
    expect(missing).toContainEqual(expect.stringMatching(/^problem: there is no .*grub\.cfg/));
  });

  it('finds a directory that is not there', async () => {
    const boot = { kind: 'grub', grubenv: join(directory, 'gone/grubenv'), rebootCommand: 'true' } as const;
    const found = await examined('', false, { boot });
    expect(found).toContainEqual(expect.stringMatching(/^problem: the loader's state can't be written: /));
  });

  it('says which slot GRUB starts where its block is damaged', async () => {
    await writeFile(join(directory, 'grub.cfg'), await script());
    await writeFile(grubenv(), randomBytes(1024));
    await writeFile(join(directory, 'cmdline'), 'sitecast.slot=B\n');
    const found = await looked();
    expect(found[0]).toMatch(/^ok: slot B runs, and slot A comes next/);
    expect(found).toContainEqual(
      expect.stringMatching(/^warning: .*grubenv is damaged: the loader starts slot A/),
    );
  });
});

it('finds that the kernel and the root file system name different slots', async () => {
  const facts: MachineFacts = {
    booted: 'A',
    said: 'A',
    root: 'B',
    watchdogs: [],
    words: [],
    openTimeoutS: undefined,
  };
  const program = await BootProgram.create(directory);
  const stop = new AbortController().signal;
  const control = new CommandBootControl(program.command, {
    run: runCommand,
    clock: systemClock('auto'),
    log: () => {},
    stop,
  });
  const found = await checkBoot(control, facts, { isExercised: false, loader: { kind: 'command' } });
  expect(found).toContainEqual({
    level: 'problem',
    text: expect.stringContaining('the root file system is on the device of slot B'),
  });
});

it("says nothing about U-Boot's counting where no script that knows slots has started the kernel", () => {
  const capabilities = { maxTries: 9, countsHangs: true, isAtomic: true };
  const lines = (said: 'A' | undefined) =>
    loaderFindings({ kind: 'uboot' }, capabilities, { said }).map(({ level, text }) => `${level}: ${text}`);
  expect(lines('A')).toContain('ok: a start is counted before the slot gets control');
  expect(lines(undefined)).toEqual([
    expect.stringMatching(/^warning: not checked: whether a start is counted .*no sitecast\.slot=/),
    'ok: a change survives a power cut as a whole',
  ]);
});

it('finds block devices without --boot, and a slot of which nothing is checked', async () => {
  const found = await examined('', false, {
    slots: { A: '/dev/sitecast-none-a', B: '/dev/sitecast-none-b' },
    boot: { kind: 'file', path: undefined, firstSlot: 'A', isImplied: true },
    isHealthChecked: false,
  });
  expect(found).toContainEqual(
    expect.stringMatching(/^problem: --boot is needed: \/dev\/sitecast-none-a is the name of a device/),
  );
  expect(found).toContainEqual(expect.stringMatching(/^warning: nothing is checked of a new slot/));
});

it('works as a command: reads the kind of boot control from the configuration file, exits with 1 on a problem, and exercises only without a daemon', async () => {
  const program = await BootProgram.create(directory);
  const { data, slots } = flags();
  const config = join(directory, 'agent.yaml');
  await writeFile(
    config,
    `data: ${data}\nslot-a: ${slots.A}\nslot-b: ${slots.B}\nboot: command\nboot-command: ${program.command}\n`,
  );
  const well = await AgentProcess.run(['doctor', '--boot', '--config', config]);
  expect(well).toMatchObject({ exitCode: 0, stderr: '' });
  expect(well.stdout).toMatch(/^ok {7}slot A runs, and slot A comes next; boot boot-1$/m);
  expect((await AgentProcess.run(['doctor', '--boot', '--exercise', '--config', config])).exitCode).toBe(0);
  await program.break('get');
  const broken = await AgentProcess.run(['doctor', '--boot', '--json', '--config', config]);
  expect(broken.exitCode).toBe(1);
  expect(JSON.parse(broken.stdout)).toMatchObject({
    findings: expect.arrayContaining([{ level: 'problem', text: expect.stringContaining('get is broken') }]),
  });
  expect(broken.stderr).toContain('SITECAST_DOCTOR_PROBLEM');
}, 60_000);
