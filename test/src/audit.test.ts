import { cp, rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let origin: Server;
beforeAll(async () => {
  testbed = await Testbed.open();
  origin = await start('127.0.0.1:0');
});
afterAll(() => testbed.close());

const start = (address: string) =>
  testbed.serve('sitecast-origin', ['serve', '--data', 'origin', '--listen', address, '--log-level', 'warn']);

const at = () => ['--origin', origin.url, '--token-file', 'origin/admin.token'];
const makeToken = (name: string) => testbed.json('sitecast', ['token', 'create', '--name', name, ...at()]);

async function verify(
  ...args: string[]
): Promise<{ exitCode: number | null; stdout: string; stderr: string }> {
  return await testbed.run('sitecast', ['audit', '--verify', ...args, ...at()]);
}

async function headNow(): Promise<string> {
  const { stdout } = await verify();
  return /end (\d+:[0-9a-f]{64})/.exec(stdout)?.[1] ?? '';
}

it('sitecast audit shows who did what, and verifies that the log is unchanged', async () => {
  await makeToken('ann');
  const early = await headNow();
  await makeToken('bob');
  expect(await verify('--expect', early)).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(/^the chain holds: 3 entries, end 3:[0-9a-f]{64}\n$/),
  });
  const shown = await testbed.run('sitecast', ['audit', ...at()]);
  expect(shown.stdout).toMatch(/origin +token\.create +token:first admin/);
  expect(shown.stdout).toMatch(/first admin +token\.create +token:bob/);
  const none = await testbed.json('sitecast', ['audit', '--since', '2999-01-01', ...at()]);
  expect(none).toMatchObject({ entries: [], head: { seq: 3 } });
});

it('sitecast audit reports that an origin was restored from a backup', async () => {
  const { url } = origin;
  await origin.stop();
  await cp(testbed.path('origin'), testbed.path('backup'), { recursive: true });
  origin = await start(new URL(url).host);
  await makeToken('carl');
  const late = await headNow();
  await origin.stop('SIGKILL');
  await rm(testbed.path('origin'), { recursive: true });
  await cp(testbed.path('backup'), testbed.path('origin'), { recursive: true });
  origin = await start(new URL(url).host);
  expect(await verify('--expect', late)).toMatchObject({
    exitCode: 5,
    stderr: expect.stringContaining('its end was cut off'),
  });
  await makeToken('dora');
  expect(await verify('--expect', late)).toMatchObject({
    exitCode: 5,
    stderr: expect.stringContaining('SITECAST_AUDIT_BROKEN'),
  });
  expect((await verify()).exitCode).toBe(0);
});
