import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import pLimit from 'p-limit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Testbed, type CommandName, type Finished, type Server } from './testbed/testbed.ts';

const execute = promisify(execFile);
/** Most of the cost here is the start of processes. */
const side = pLimit(2);

let testbed: Testbed;
let origin: Server;
beforeAll(async () => {
  testbed = await Testbed.open();
  await mkdir(testbed.path('folder'));
  await writeFile(testbed.path('image'), 'an image');
  await writeFile(testbed.path('text'), 'text');
  for (const slot of ['a.img', 'b.img']) await writeFile(testbed.path(slot), 'slot');
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', '--listen', '127.0.0.1:0']);
  await testbed.foundRepository(origin);
  await testbed.json('sitecast', ['release', 'publish', 'image', ...CAMERA, '--version', '1.0.0']);
});
afterAll(() => testbed.close());

const CAMERA = ['--product', 'camera', '--hardware', 'rpi4'];
const NOBODY = 'http://127.0.0.1:1';
const publish = (image: string, ...more: string[]) => [
  'release',
  'publish',
  image,
  ...CAMERA,
  '--version',
  '2.0.0',
  ...more,
];
let newcomers = 0;
/** A data directory of its own, because several commands run at one time. */
const ownData = (): string[] => ['--data', `newcomer-${++newcomers}`];
const gateway = (...more: string[]) => ['serve', ...ownData(), '--origin', NOBODY, ...more];
const agent = (...more: string[]) => [
  'check',
  ...ownData(),
  '--gateway',
  NOBODY,
  ...CAMERA,
  '--slot-a',
  'a.img',
  '--slot-b',
  'b.img',
  ...more,
];
const serve = (...more: string[]) => ['serve', ...ownData(), '--listen', '127.0.0.1:0', ...more];

/** Commands that read a file, with the file's path in its place. */
const READERS: readonly [CommandName, (file: string) => string[]][] = [
  ['sitecast', file => publish(file)],
  ['sitecast', file => publish('image', '--notes-file', file)],
  ['sitecast', file => publish('image', '--root', file, '--state', 'new-state')],
  ['sitecast', file => ['status', '--token-file', file]],
  ['sitecast', file => ['status', '--ca', file]],
  ['sitecast', file => ['status', '--config', file]],
  ['sitecast', file => ['release', 'sign', file]],
  ['sitecast', file => ['release', 'submit', file]],
  ['sitecast', file => ['keys', 'create', 'root', '--name', 'x', '--passphrase-file', file]],
  ['sitecast', file => ['rollout', 'start', '--spec', file]],
  ['sitecast-origin', file => serve('--tls-cert', file, '--tls-key', file)],
  ['sitecast-origin', file => serve('--config', file)],
  ['sitecast-origin', file => ['recover', '--data', 'origin', '--ca', file]],
  ['sitecast-gateway', file => gateway('--token-file', file)],
  ['sitecast-gateway', file => gateway('--root', file)],
  ['sitecast-gateway', file => gateway('--ca', file)],
  ['sitecast-agent', file => agent('--token-file', file)],
  ['sitecast-agent', file => agent('--root', file)],
  ['sitecast-agent', file => agent('--ca', file)],
];

const FILES = ['nowhere', 'folder', 'text/below'];

const codeOf = ({ stderr }: Finished): string => /\((SITECAST_[A-Z_]+)\)/.exec(stderr)?.[1] ?? stderr;

it('every command exits with 2 for a missing or unusable file', async () => {
  const ended = await Promise.all(
    READERS.flatMap(([name, argsFor], at) =>
      (name === 'sitecast' ? FILES : FILES.slice(at % 2, (at % 2) + 1)).map(file =>
        side(async () => {
          const args = argsFor(file);
          const finished = await testbed.run(name, args);
          const isPlain = !/\n\s+at |SITECAST_INTERNAL/.test(finished.stderr);
          return [`${name} ${args.join(' ')}`, finished.exitCode, isPlain, codeOf(finished)] as const;
        }),
      ),
    ),
  );
  expect(ended.filter(([, exitCode, isPlain]) => exitCode !== 2 || !isPlain)).toEqual([]);
  expect(new Set(ended.map(([, , , code]) => code)).size).toBeLessThan(8);
});

describe('every command', () => {
  it.each<[number, string, CommandName, string[]]>([
    [2, 'SITECAST_USAGE_COMMAND_MISSING', 'sitecast', []],
    [2, 'SITECAST_USAGE_COMMAND_MISSING', 'sitecast', ['release']],
    [2, 'SITECAST_USAGE_COMMAND_UNKNOWN', 'sitecast', ['realese']],
    [2, 'SITECAST_USAGE_OPTION_UNKNOWN', 'sitecast', ['status', '--frob']],
    [2, 'SITECAST_USAGE_ARGUMENT_MISSING', 'sitecast', ['release', 'sign']],
    [2, 'SITECAST_USAGE_VALUE_INVALID', 'sitecast', ['audit', '--since', 'x']],
    [2, 'SITECAST_USAGE_OPTION_UNKNOWN', 'sitecast-origin', ['serve', '--frob']],
    [2, 'SITECAST_USAGE_OPTION_MISSING', 'sitecast-origin', ['serve']],
    [2, 'SITECAST_USAGE_VALUE_INVALID', 'sitecast-gateway', gateway('--wan-rate', 'fast')],
    [2, 'SITECAST_USAGE_OPTION_UNKNOWN', 'sitecast-agent', ['run', '--frob']],
    [2, 'SITECAST_SETTING_MISSING', 'sitecast-agent', ['run', '--data', 'agent']],
    [2, 'SITECAST_ORIGIN_URL', 'sitecast', ['status', '--origin', 'nonsense']],
    [2, 'SITECAST_HARDWARE_UNFIT', 'sitecast', ['rollout', 'start', 'camera', '1.0.0', '--hardware', 'rpi']],
    [3, 'SITECAST_RELEASE_UNKNOWN', 'sitecast', ['release', 'show', 'camera', '9.0.0']],
    [3, 'SITECAST_ROLLOUT_UNKNOWN', 'sitecast', ['rollout', 'pause', '--yes']],
    [3, 'SITECAST_NOT_INITIALISED', 'sitecast-origin', ['recover', '--data', 'folder']],
    [3, 'SITECAST_STATUS_MISSING', 'sitecast-agent', ['status', '--data', 'folder']],
    [4, 'SITECAST_ORIGIN_UNREACHABLE', 'sitecast', ['status', '--origin', NOBODY]],
    [4, 'SITECAST_NAME_UNRESOLVED', 'sitecast', ['status', '--origin', 'http://nobody.invalid']],
    [4, 'SITECAST_GATEWAY_UNREACHABLE', 'sitecast-agent', agent('--root', 'root.json')],
    [5, 'SITECAST_METADATA_MALFORMED', 'sitecast-gateway', gateway('--root', 'text')],
  ])('exits with %i and %s: %s %j', async (exitCode, code, name, args) => {
    const finished = await testbed.run(name, args);
    expect([finished.exitCode, codeOf(finished)]).toEqual([exitCode, code]);
  });

  it('reports wrong usage as JSON where JSON was asked for', async () => {
    const { exitCode, stdout, stderr } = await testbed.run('sitecast', ['status', '--json', '--frob']);
    expect({ exitCode, stdout, error: JSON.parse(stderr) }).toMatchObject({
      exitCode: 2,
      stdout: '',
      error: { error: { code: 'SITECAST_USAGE_OPTION_UNKNOWN', data: { command: 'sitecast status' } } },
    });
    const unfit = ['rollout', 'start', 'camera', '1.0.0', '--hardware', 'rpi', '--json'];
    expect(JSON.parse((await testbed.run('sitecast', unfit)).stderr)).toMatchObject({
      error: { code: 'SITECAST_HARDWARE_UNFIT', data: { nearest: 'rpi4', unfit: ['rpi'] } },
    });
  });
});

it('accepts a token through a pipe', async () => {
  const sitecast = `"${process.execPath}" "${testbed.commandPath('sitecast')}" status --json --token-file`;
  for (const line of [
    `${sitecast} /dev/stdin < origin/admin.token`,
    `cat origin/admin.token | ${sitecast} /dev/stdin`,
    `${sitecast} <(cat origin/admin.token)`,
  ]) {
    const { stdout } = await execute('bash', ['-c', line], { cwd: testbed.directory });
    expect(JSON.parse(stdout)).toMatchObject({ initialised: true });
  }
});

it('steers the only rollout under way without its id', async () => {
  const started = async (product: string): Promise<unknown> => {
    const args = ['rollout', 'start', product, '1.0.0', '--all-at-once', '--json'];
    return JSON.parse((await testbed.run('sitecast', args)).stdout).id;
  };
  const first = await started('camera');
  expect(await testbed.json('sitecast', ['rollout', 'pause'])).toMatchObject({ id: first, state: 'paused' });
  const door = ['--product', 'door', '--hardware', 'rpi4', '--version', '1.0.0', '--notes', 'opens\nagain'];
  await testbed.json('sitecast', ['release', 'publish', 'image', ...door]);
  const second = await started('door');
  const { exitCode, stderr } = await testbed.run('sitecast', ['rollout', 'abort', '--json']);
  expect({ exitCode, error: JSON.parse(stderr) }).toMatchObject({
    exitCode: 2,
    error: { error: { code: 'SITECAST_ROLLOUT_AMBIGUOUS', data: { rollouts: [second, first] } } },
  });
  const shown = await testbed.run('sitecast', ['release', 'show', 'door', '1.0.0']);
  expect(shown.stdout).toMatch(/^release +1\.0\.0 of door \(counter 1\)\n[^]*\n\| opens\n\| again\n$/);
  const { stdout } = await testbed.run('sitecast', ['release', 'list', 'door']);
  expect(stdout).toMatch(/ opens …\n$/);
});
