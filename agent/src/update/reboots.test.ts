import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CommandBootControl } from '../adapters/command-boot.ts';
import { runCommand } from '../adapters/run-command.ts';
import { systemClock } from '../adapters/system-clock.ts';
import { AgentHarness } from '../testing/harness.ts';
import { BootProgram } from '../testing/boot-program.ts';

// On these machines a program reboots: the boot comes later, or not at all.

const HASTE = 20_000;
const image = randomBytes(60_000);
let program: BootProgram;
const logged: string[] = [];

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image] });
  program = await BootProgram.create(harness.device.directory);
  logged.length = 0;
});
afterEach(async () => {
  await harness.close();
});

const system = systemClock('auto');

/** @param haste how many times faster waits pass */
async function open(haste: number, hooks: Record<string, string> = {}): Promise<void> {
  const log = (_level: string, message: string) => void logged.push(message);
  const boot = new CommandBootControl(program.command, {
    run: runCommand,
    clock: { ...system, sleep: (ms, signal) => system.sleep(ms / haste, signal) },
    log,
    stop: new AbortController().signal,
  });
  await harness.device.open({ boot, log, haste, settings: { hooks } });
}

const told = () => harness.reports;
const states = () => told().map(({ state }) => state);
const reboots = async () => (await program.calls()).filter(call => call === 'reboot').length;

it('waits for a boot that comes a moment after the verb has returned', async () => {
  await program.reboots('late');
  await open(1);
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B', bootId: 'boot-2' });
  expect(await reboots()).toBe(1);
});

it.each(['never', 'fails'] as const)(
  'reports that a boot which does not come (%s) is awaited, asks for it again, and gives the attempt up in the end',
  async manner => {
    await program.reboots(manner);
    await open(HASTE);
    expect(await harness.device.cycle()).toMatchObject({
      state: 'rebooting',
      waitingFor: 'reboot',
      reason: { code: 'SITECAST_REBOOT_PENDING', message: expect.stringContaining('asked for once') },
    });
    expect(harness.device.parts.stateFile.current.update).toMatchObject({
      phase: 'rebooting',
      rebootsAsked: 1,
    });
    let rest = await harness.device.cycle();
    for (let cycles = 0; rest.state === 'rebooting' && cycles < 10_000; cycles += 1) {
      await new Promise(resolve => setTimeout(resolve, 20));
      rest = await harness.device.cycle();
    }
    expect(rest).toMatchObject({ state: 'failed', reason: { code: 'SITECAST_REBOOT_FAILED' } });
    expect(await reboots()).toBe(8);
    expect(logged.filter(line => line.startsWith('a reboot was asked for')).length).toBe(8);
    // The running slot stays, even if the boot comes later after all.
    await program.boot();
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A', next: 'A' });
    expect(harness.device.parts.stateFile.current.barred).toEqual([]);
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_ATTEMPT_USED' },
    });
    expect(told().find(({ state }) => state === 'failed')?.reason?.code).toBe('SITECAST_REBOOT_FAILED');
  },
);

it('asks for a boot only when its pause is over, whatever changes arrive; a late boot counts', async () => {
  // Where the program itself fails, the pause is one minute.
  await program.reboots('fails');
  await open(1);
  expect(await harness.device.cycle()).toMatchObject({ state: 'rebooting' });
  const asked = await reboots();
  expect(await harness.device.cycle()).toMatchObject({ state: 'rebooting' });
  expect(await reboots()).toBe(asked);
  await program.boot();
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
});

it('asks for the boot out of a bad slot without limit, and never confirms the bad slot', async () => {
  await open(HASTE, { health: `sh -c 'echo never > ${harness.device.directory}/machine/manner; exit 1'` });
  let rest = await harness.device.cycle();
  for (let asked = await reboots(); asked < 10; asked = await reboots()) {
    expect(rest).toMatchObject({ state: 'rebooting', reason: { code: 'SITECAST_REBOOT_PENDING' } });
    await new Promise(resolve => setTimeout(resolve, 20));
    rest = await harness.device.cycle();
  }
  expect(harness.device.parts.stateFile.current.update).toMatchObject({ phase: 'fallingBack' });
  await program.reboots('now');
  for (let cycles = 0; rest.state === 'rebooting' && cycles < 10_000; cycles += 1) {
    await new Promise(resolve => setTimeout(resolve, 20));
    rest = await harness.device.cycle();
  }
  expect(rest).toMatchObject({ state: 'rolledBack', reason: { code: 'healthFailed' } });
  expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
  expect(states().filter(state => state === 'failed')).toHaveLength(1);
});
