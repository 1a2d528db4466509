import { randomBytes } from 'node:crypto';
import { cpSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runProgram } from '@sitecast/shared/command';
import { afterEach, expect, it } from 'vitest';
import { originProgram } from '../program.ts';
import { recoverFrom } from '../recover.ts';
import { type RunningOrigin, startOrigin } from '../serve.ts';
import { startSitecast } from '../testing/command.ts';
import { testLog } from '../testing/origin.ts';
import { temporaryDirectory } from '../testing/setup.ts';

const place = temporaryDirectory();
let running: RunningOrigin | undefined;
afterEach(async () => {
  await running?.close();
  await place.remove();
});

const at = (...path: string[]) => join(place.path, ...path);

async function start(name: string): Promise<RunningOrigin> {
  const bounds = { stagingTtlMs: 1e9, maxStagedBytes: 1e9, maxReportBytes: 1e9, reserveBytes: 0 };
  const listen = { host: '127.0.0.1', port: 0 };
  return await startOrigin({ dataDirectory: at(name), listen, ...bounds }, { log: testLog() });
}

async function sitecast(...args: string[]) {
  const isOfKeys = args[0] === 'keys';
  const connection = ['--origin', running?.url ?? '', '--token-file', at('data/admin.token')];
  const own = ['--keys', at('keys'), '--root', at('root.json')];
  const state = args[0] === 'release' ? ['--state', at('state')] : [];
  return await startSitecast(isOfKeys ? args : [...args, ...connection, ...own, ...state]).done;
}

const publish = (version: string) => {
  const image = at(`${version}.img`);
  if (!readdirSync(place.path).includes(`${version}.img`)) writeFileSync(image, randomBytes(200_000));
  return sitecast(
    'release',
    'publish',
    image,
    '--product',
    'camera',
    '--version',
    version,
    '--hardware',
    'p',
  );
};

async function recover(url: string): Promise<string> {
  let text = '';
  const write = (chunk: string) => {
    text += chunk;
  };
  const serve = async () => {};
  const program = originProgram({ serve, recover: recoverFrom }, write);
  const args = ['recover', '--data', at('data'), '--from', url];
  expect(await runProgram(program, args, { streams: { out: write, err: write } })).toBe(0);
  return text;
}

it('says of each release whether it is back, and the cures that it names work', async () => {
  running = await start('data');
  for (const role of ['root', 'release'])
    await sitecast('keys', 'create', role, '--out', at('keys'), '--no-passphrase');
  expect(await sitecast('init')).toMatchObject({ exitCode: 0 });
  expect(await publish('1.0.0')).toMatchObject({ exitCode: 0 });
  await running.close();
  cpSync(at('data'), at('backup'), { recursive: true });
  running = await start('data');
  for (const version of ['2.0.0', '3.0.0', '4.0.0'])
    expect(await publish(version)).toMatchObject({ exitCode: 0 });
  await running.close();
  // The gateway has the metadata of all, the manifest of 2.0.0 not, the index of 3.0.0 not.
  cpSync(at('data'), at('seen'), { recursive: true });
  const releases = at('seen/repository/targets/releases');
  for (const name of readdirSync(releases).filter(each => /\.camera-(2\.json|3\.caibx)$/.test(each))) {
    rmSync(join(releases, name));
    rmSync(at('seen/spare', name.slice(0, 64)), { force: true });
  }
  rmSync(at('data'), { recursive: true });
  cpSync(at('backup'), at('data'), { recursive: true });
  const gateway = await start('seen');
  const said = await recover(gateway.url);
  await gateway.close();
  expect(said).toContain("listed again, and can't be installed: release 2 of camera");
  expect(said).toContain("listed again, and can't be installed: release 3 of camera");
  expect(said).toContain('brought back: release 4 of camera');
  expect(said).toMatch(/nobody has releases\/camera-3\.caibx: [^\n]* publish release 3 of camera again/);
  expect(said).toMatch(/nobody has releases\/camera-2\.json: [^\n]* withdraw camera VERSION --counter 2/);
  expect(said).not.toMatch(/camera-2\.json: [^\n]* publish [^\n]* again/);

  running = await start('data');
  expect(await publish('3.0.0')).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('3.0.0') });
  expect(await publish('5.0.0')).toMatchObject({ exitCode: 3 });
  expect(await sitecast('release', 'withdraw', 'camera', '2.0.0', '--counter', '2')).toMatchObject({
    exitCode: 0,
  });
  expect(await publish('5.0.0')).toMatchObject({ exitCode: 0 });
  expect(await (await fetch(`${running.url}/readyz`)).json()).toMatchObject({
    damage: { files: 0, chunks: 0 },
  });
});
