import { randomBytes } from 'node:crypto';
import { access, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { SlotName } from '../ports.ts';
import { BOOT_MACHINES, type BootMachine } from '../testing/boot-machines.ts';
import { AgentHarness } from '../testing/harness.ts';

// A whole update with boot loaders that count boots themselves. Each time the device is opened again, the machine has booted.

const image = randomBytes(60_000);
let harness: AgentHarness;
let partition: string;
let boots = 1;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image] });
  partition = join(harness.device.directory, 'boot');
  await mkdir(partition);
  boots = 1;
});
afterEach(async () => {
  await harness.close();
});

const loaders = Object.entries<BootMachine>(BOOT_MACHINES)
  .filter(([name]) => name !== 'file' && name !== 'command')
  .map(([name, machine]) => [name, machine, machine.whyNot?.()] as const);

async function start(machine: BootMachine, booted: SlotName, health: string, haste = 20_000): Promise<void> {
  const boot = machine.open(partition, booted, `boot-${boots}`);
  await harness.device.open({ boot, haste, settings: { hooks: { health } } });
}

/** A power cut, or a reboot. */
async function boot(machine: BootMachine, health: string): Promise<SlotName> {
  await harness.device.close({ isCut: true });
  boots += 1;
  const booted = await machine.boot(partition);
  await start(machine, booted, health);
  await harness.device.cycle();
  return booted;
}

it.each(loaders)('`%s` boots the new slot of an update, which is kept', async (_name, machine, whyNot) => {
  if (whyNot !== undefined) return;
  await machine.create(partition);
  await start(machine, 'A', 'true');
  expect(await harness.device.cycle()).toMatchObject({ state: 'rebooting', waitingFor: 'reboot' });
  await access(join(partition, 'rebooted'));
  expect(await boot(machine, 'true')).toBe('B');
  expect(harness.reports.at(-1)).toMatchObject({ state: 'completed' });
  expect([await boot(machine, 'true'), await boot(machine, 'true'), await boot(machine, 'true')]).toEqual(
    Array.from('BBB'),
  );
});

it.each(loaders)('`%s` leaves a slot that hangs after its two tries', async (_name, machine, whyNot) => {
  if (whyNot !== undefined) return;
  await machine.create(partition);
  await start(machine, 'A', 'true');
  await harness.device.cycle();
  await harness.device.close({ isCut: true });
  // The agent isn't reached in that slot; a watchdog resets the machine.
  expect([await machine.boot(partition), await machine.boot(partition)]).toEqual(['B', 'B']);
  expect(await boot(machine, 'true')).toBe('A');
  expect(harness.reports.at(-1)).toMatchObject({
    state: 'rolledBack',
    reason: { code: 'bootCountExhausted' },
  });
  expect(await boot(machine, 'true')).toBe('A');
});

it.each(loaders)('`%s` leaves a slot that is unhealthy', async (_name, machine, whyNot) => {
  if (whyNot !== undefined) return;
  await machine.create(partition);
  await start(machine, 'A', 'true');
  await harness.device.cycle();
  expect(await boot(machine, 'false')).toBe('B');
  expect(await boot(machine, 'true')).toBe('A');
  expect(harness.reports.at(-1)).toMatchObject({ state: 'rolledBack', reason: { code: 'healthFailed' } });
});

it.each(loaders)('`%s` that pays no heed to the trial is blamed itself', async (_name, machine, whyNot) => {
  if (whyNot !== undefined) return;
  await machine.create(partition);
  await start(machine, 'A', 'true');
  await harness.device.cycle();
  await harness.device.close({ isCut: true });
  boots += 1;
  await start(machine, 'A', 'true');
  await harness.device.cycle();
  expect(harness.reports.findLast(({ state }) => state === 'failed')).toMatchObject({
    reason: {
      code: 'SITECAST_LOADER_IGNORED_TRIAL',
      message: expect.stringContaining('never started slot B (2 of 2 starts left)'),
    },
  });
  expect(harness.device.parts.stateFile.current).toMatchObject({ booted: 'A', update: null, barred: [] });
  expect(await machine.boot(partition)).toBe('A');
});

describe('a failed slot that someone starts by hand', () => {
  const state = () => harness.device.parts.stateFile.current;
  /** A runs, and B has failed its health check. */
  async function failB(machine: BootMachine): Promise<void> {
    await machine.create(partition);
    await start(machine, 'A', 'true');
    await harness.device.cycle();
    await boot(machine, 'false');
    expect(await boot(machine, 'true')).toBe('A');
    expect(state()).toMatchObject({ booted: 'A', slots: { B: { state: 'bad' } } });
  }
  /** As from the loader's own menu: the loader's state stays. */
  async function startByHand(machine: BootMachine, haste: number): Promise<void> {
    await harness.device.close({ isCut: true });
    boots += 1;
    await start(machine, 'B', 'true', haste);
  }

  it.each(loaders)('is never kept by `%s`: the good one comes next', async (_name, machine, whyNot) => {
    if (whyNot !== undefined) return;
    await failB(machine);
    const { barred, slots } = state();
    await rm(join(partition, 'rebooted'), { force: true });
    await startByHand(machine, 1);
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      waitingFor: 'reboot',
      reason: { code: 'SITECAST_UNEXPECTED_SLOT', message: expect.stringContaining('not known to be good') },
    });
    expect(harness.device.parts.status.current).toMatchObject({ booted: 'B', state: 'waiting' });
    expect(await harness.device.check()).toMatchObject({ rest: { waitingFor: 'reboot' } });
    expect(state()).toMatchObject({ booted: 'A', barred, slots });
    expect(harness.reports.at(-1)).toMatchObject({ state: 'waiting', booted: { slot: 'B' } });
    // A person may be looking for the fault.
    await expect(access(join(partition, 'rebooted'))).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await boot(machine, 'true')).toBe('A');
    expect(harness.device.parts.status.current).toMatchObject({ booted: 'A', state: 'blocked' });
    expect(state()).toMatchObject({ booted: 'A', barred });
    expect(state().returns).toBeUndefined();
  });

  it.each(loaders)('is left by `%s` after an hour', async (_name, machine, whyNot) => {
    if (whyNot !== undefined) return;
    await failB(machine);
    await rm(join(partition, 'rebooted'), { force: true });
    await startByHand(machine, 20_000);
    await vi.waitFor(
      async () => {
        await harness.device.cycle();
        await access(join(partition, 'rebooted'));
      },
      { timeout: 20_000 },
    );
    expect(state().returns).toMatchObject({ count: 1 });
    expect(await boot(machine, 'true')).toBe('A');
    expect(state().slots.B).toMatchObject({ state: 'bad' });
  });

  it('is stayed in where the good one does not start any more, so that an update can replace that one', async () => {
    const { grub } = BOOT_MACHINES;
    await failB(grub);
    for (let returns = 1; returns <= 2; returns += 1) {
      await startByHand(grub, 20_000);
      await vi.waitFor(
        async () => {
          await harness.device.cycle();
          expect(state().returns).toMatchObject({ count: returns });
        },
        { timeout: 20_000 },
      );
    }
    await startByHand(grub, 20_000);
    expect(state()).toMatchObject({ booted: 'B', slots: { A: { state: 'bad' }, B: { state: 'bad' } } });
    expect(harness.device.parts.status.current).toMatchObject({
      state: 'failed',
      message: expect.stringContaining('slot A did not start 2 times'),
    });
    harness.fleet.addRelease({ counter: 2, image: randomBytes(50_000) });
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    await harness.device.cycle();
    expect(state().update).toMatchObject({ phase: 'rebooting', target: 'A', release: { counter: 2 } });
  });
});
