import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileBootControl } from '../adapters/file-boot.ts';
import type { HealthSettings } from '../health-settings.ts';
import type { DeviceChanges } from '../testing/device.ts';
import { AgentHarness } from '../testing/harness.ts';
import { until } from '../testing/process.ts';

// What counts against a new slot, and what doesn't.

const image = randomBytes(60_000);
let harness: AgentHarness;
const logged: string[] = [];

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image] });
  logged.length = 0;
});
afterEach(async () => {
  await harness.close();
});

const DEFAULTS: HealthSettings = {
  checks: { isGatewayChecked: false, memoryBytes: undefined, diskBytes: undefined, units: [] },
  retries: 0,
  retryPauseMs: 10_000,
  confirmAfterMs: 0,
};

async function open(changes: DeviceChanges, health: Partial<typeof DEFAULTS> = {}): Promise<void> {
  const settings = { health: { ...DEFAULTS, ...health }, ...changes.settings };
  const log = (_level: string, message: string) => void logged.push(message);
  await harness.device.open({ haste: 10_000, log, ...changes, settings });
}

/** A health command that fails in its first runs. */
const failing = (times: number) => {
  const count = join(harness.device.directory, 'count');
  return { health: `echo x >> ${count}; [ $(wc -l < ${count}) -gt ${times} ]`, count };
};
const runsOf = async (count: string) => (await readFile(count, 'utf8')).length / 2;

it.each([
  [2, 'completed', 3],
  [1, 'rolledBack', 2],
  [0, 'rolledBack', 1],
] as const)('repeats a failed health check %i times', async (retries, state, runs) => {
  const { health, count } = failing(2);
  await open({ settings: { hooks: { health } } }, { retries });
  expect(await harness.device.cycle()).toMatchObject({ state });
  expect(await runsOf(count)).toBe(runs);
  expect(logged.filter(line => line.includes('the health check is repeated'))).toHaveLength(runs - 1);
});

it('takes a failed built-in check for a failed health check, and names it', async () => {
  const checks = { ...DEFAULTS.checks, diskBytes: 2 ** 52 };
  const { health, count } = failing(0);
  await open({ settings: { hooks: { health } } }, { checks });
  const result = await harness.device.cycle();
  expect(result).toMatchObject({ state: 'rolledBack', reason: { code: 'healthFailed' } });
  expect(result.reason?.message).toMatch(/^disk: .*MiB needed$/);
  // The command isn't run then.
  await expect(runsOf(count)).rejects.toThrow('ENOENT');
});

it('checks a slot again after its soak, and keeps it', async () => {
  const { health, count } = failing(0);
  await open({ haste: 20, settings: { hooks: { health } } }, { confirmAfterMs: 20_000 });
  const cycle = harness.device.cycle();
  await until('it soaks', () => harness.device.parts.status.current.waitingFor === 'soak');
  expect(harness.device.parts.status.current).toMatchObject({ state: 'confirming' });
  expect((await harness.device.parts.boot.read()).next).toBe('B');
  expect(await runsOf(count)).toBe(1);
  expect(await cycle).toMatchObject({ state: 'completed' });
  expect(await runsOf(count)).toBe(2);
});

it('leaves a slot that is no longer healthy after its soak', async () => {
  const marker = join(harness.device.directory, 'marker');
  const health = `[ ! -e ${marker} ] && touch ${marker}`;
  await open({ settings: { hooks: { health } } }, { confirmAfterMs: 20_000 });
  expect(await harness.device.cycle()).toMatchObject({
    state: 'rolledBack',
    reason: { code: 'healthFailed' },
  });
});

it('begins the soak anew after a restart of the agent, and counts a power cut in it', async () => {
  const stop = new AbortController();
  await open({ haste: 1, stop: stop.signal }, { confirmAfterMs: 3_600_000 });
  const cycle = harness.device.cycle().catch((error: unknown) => error);
  await until('it soaks', () => harness.device.parts.status.current.waitingFor === 'soak');
  stop.abort();
  await cycle;
  await harness.device.close();
  await open({ isStarted: false }, { confirmAfterMs: 3_600_000 });
  await harness.device.agent.start();
  await harness.device.cycle();
  expect(harness.reportedStates.at(-1)).toBe('completed');
});

let noted: unknown;

/** The site is offline from the boot on. */
function offlineAfterBoot(): FileBootControl {
  let starts = 0;
  noted = undefined;
  return new FileBootControl(join(harness.device.directory, 'data', 'boot.json'), {
    firstSlot: 'A',
    afterBoot: async () => {
      starts += 1;
      if (starts !== 2) return;
      noted = harness.device.parts.stateFile.current.update?.healthNotes;
      await harness.gateway.close();
    },
  });
}

it.each([false, true])('keeps a slot whose site is offline (gateway check: %s)', async isGatewayChecked => {
  const checks = { ...DEFAULTS.checks, isGatewayChecked };
  await open({ boot: offlineAfterBoot(), settings: { healthTimeoutMs: 500 } }, { checks });
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
  expect(harness.device.parts.outbox.pendingCount).toBeGreaterThan(0);
  expect(noted).toMatchObject(isGatewayChecked ? { isGatewayReached: true } : {});
});

it('keeps a slot even if no report can be sent', async () => {
  harness.gateway.judge = () => 'not taken';
  harness.gateway.refuses = 'whole';
  await open({});
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
});
