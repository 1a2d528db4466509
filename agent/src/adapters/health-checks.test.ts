import { mkdirSync, mkdtempSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SitecastError } from '@sitecast/shared/errors';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { HealthCheckSettings } from '../health-settings.ts';
import type { Gateway, HealthCheck, HealthNotes, JsonAnswer } from '../ports.ts';
import { healthChecks } from './health-checks.ts';
import { runCommand } from './run-command.ts';

let data: string;
beforeEach(async () => {
  data = await mkdtemp(join(tmpdir(), 'sitecast-health-'));
});
afterEach(async () => {
  await rm(data, { recursive: true, force: true });
});

const MIB = 1024 * 1024;
const NONE: HealthCheckSettings = {
  isGatewayChecked: false,
  memoryBytes: undefined,
  diskBytes: undefined,
  units: [],
};

function check(settings: Partial<HealthCheckSettings>, places = {}): HealthCheck {
  const [first] = healthChecks({ ...NONE, ...settings }, { data, gateways: [], run: runCommand, ...places });
  if (!first) throw new Error('no check');
  return first;
}
const ask = ({ check: judge }: HealthCheck, notes: HealthNotes = {}) =>
  judge(notes, AbortSignal.timeout(300));

it('memory: available bytes must reach the set size', async () => {
  const freeMemory = () => 64 * MIB;
  expect(await ask(check({ memoryBytes: 64 * MIB }, { freeMemory }))).toBeUndefined();
  expect(await ask(check({ memoryBytes: 65 * MIB }, { freeMemory }))).toBe(
    '64 MiB are available, and 65 MiB needed',
  );
});

it('disk: free bytes at the data directory must reach the set size', async () => {
  expect(await ask(check({ diskBytes: 1 }))).toBeUndefined();
  expect(await ask(check({ diskBytes: 2 ** 52 }))).toMatch(/MiB are free at .*, and 4294967296 MiB needed$/);
  const gone = join(data, 'gone');
  expect(await ask(check({ diskBytes: 1 }, { data: gone }))).toContain('ENOENT');
});

it('unit: must be active according to systemd', async () => {
  const outcome = { isTimedOut: false, output: 'failed', stdout: 'failed', stderr: '' };
  const asked: string[] = [];
  const run = (exitCode: number) => async (command: string) => {
    asked.push(command);
    return { ...outcome, exitCode };
  };
  expect(await ask(check({ units: ['camera.service'] }, { run: run(0) }))).toBeUndefined();
  expect(await ask(check({ units: ['camera.service'] }, { run: run(3) }))).toBe('it is failed');
  expect(asked).toEqual(["systemctl is-active 'camera.service'", "systemctl is-active 'camera.service'"]);
});

describe('gateway', () => {
  type Answer = () => Promise<JsonAnswer>;
  const answers: Answer = async () => ({ status: 503, body: {} });
  const failsWith = (code: string, cause: string): Answer => {
    const error = new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', `it fails: ${code}`, {
      cause: Object.assign(new Error(cause), { code, errno: -1, syscall: 'connect' }),
    });
    return () => Promise.reject(error);
  };
  const distrusted: Answer = () =>
    Promise.reject(new SitecastError('untrusted', 'SITECAST_TLS_AUTHORITY_UNKNOWN', 'who is that'));
  /** A gateway that gives this answer to health checks. */
  const gateway = (getJson: Answer): Pick<Gateway, 'getJson'> => ({ getJson });
  /** A directory like /sys/class/net. */
  const withInterfaces = (...names: string[]): string => {
    const path = mkdtempSync(join(data, 'net-'));
    for (const name of names) mkdirSync(join(path, name));
    return path;
  };
  const checkOf = (answer: Answer, interfaces = withInterfaces('lo', 'eth0', 'eth1')) =>
    check({ isGatewayChecked: true }, { gateways: [gateway(answer)], interfaces });
  const BEFORE = { isGatewayReached: true, interfaces: 2 };

  it('notes before the update whether a gateway answers, whatever the answer is', async () => {
    const signal = AbortSignal.timeout(300);
    expect(await checkOf(answers).note?.(signal)).toEqual(BEFORE);
    expect(await checkOf(failsWith('ECONNREFUSED', 'no')).note?.(signal)).toMatchObject({
      isGatewayReached: false,
    });
  });

  it('accepts any answer, also a late one', async () => {
    expect(await ask(checkOf(answers), BEFORE)).toBeUndefined();
    let asked = 0;
    const late: Answer = () => ((asked += 1) > 1 ? answers() : failsWith('EPERM', 'not yet')());
    const found = await checkOf(late).check(BEFORE, AbortSignal.timeout(10_000));
    expect([found, asked]).toEqual([undefined, 2]);
  });

  it.each(['ECONNREFUSED', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EAI_AGAIN', 'ENOTFOUND'])(
    'does not blame the image for an error that an offline site causes as well: %s',
    async code => {
      expect(await ask(checkOf(failsWith(code, 'no')), BEFORE)).toBeUndefined();
    },
  );

  it.each([
    [
      'a packet filter',
      failsWith('EPERM', 'no'),
      'no gateway can be reached, as before the update: it fails: EPERM',
    ],
    [
      'an authority that it does not know',
      distrusted,
      'no gateway can be reached, as before the update: who is that',
    ],
  ])('fails for what the image alone can cause: %s', async (_what, answer, message) => {
    expect(await ask(checkOf(answer), BEFORE)).toBe(message);
    // If no gateway was reached before, this image has made nothing worse.
    expect(await ask(checkOf(answer), { ...BEFORE, isGatewayReached: false })).toBeUndefined();
    expect(await ask(checkOf(answer))).toBeUndefined();
  });

  it('fails where the network interface is gone', async () => {
    const gone = checkOf(failsWith('ENETUNREACH', 'no'), withInterfaces('lo'));
    expect(await ask(gone, BEFORE)).toBe(
      'this machine has no network interface, and had one before the update',
    );
    expect(await ask(gone, { ...BEFORE, interfaces: 0 })).toBeUndefined();
    // If the system doesn't say how many interfaces there are, none counts as lost.
    const untold = checkOf(failsWith('ENETUNREACH', 'no'), join(data, 'no-sysfs'));
    expect(await ask(untold, BEFORE)).toBeUndefined();
    expect(await untold.note?.(AbortSignal.timeout(300))).toEqual({ isGatewayReached: false });
  });
});
