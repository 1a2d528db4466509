import { randomBytes } from 'node:crypto';
import { access, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
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

async function start(machine: BootMachine, booted: SlotName, health: string): Promise<void> {
  const boot = machine.open(partition, booted, `boot-${boots}`);
  await harness.device.open({ boot, haste: 20_000, settings: { hooks: { health } } });
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
