import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';
import { debianTool } from './testbed/debian-tools.ts';

const execute = promisify(execFile);
const casync = debianTool('casync');
const IMAGE_BYTES = 3_000_000;

let testbed: Testbed;
let origin: Server;

beforeEach(async () => {
  testbed = await Testbed.open();
  origin = await testbed.serve('sitecast-origin', [
    'serve',
    '--data',
    'origin',
    '--listen',
    '127.0.0.1:0',
    '--log-level',
    'warn',
  ]);
});
afterEach(async () => {
  await testbed.close();
});

const found = (): Promise<void> => testbed.foundRepository(origin);

async function image(name: string, bytes: Uint8Array | string = randomBytes(IMAGE_BYTES)): Promise<Buffer> {
  await writeFile(testbed.path(name), bytes);
  return Buffer.from(bytes);
}

const about = (version: string): string[] => [
  '--product',
  'camera',
  '--version',
  version,
  '--hardware',
  'rpi4',
];
const publish = (name: string, version: string, ...more: string[]) =>
  testbed.run('sitecast', ['release', 'publish', name, ...about(version), '--json', ...more]);

async function published(name: string, version: string, ...more: string[]): Promise<Record<string, unknown>> {
  const { exitCode, stdout, stderr } = await publish(name, version, ...more);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: expect.any(String) });
  return JSON.parse(stdout);
}

async function refused(
  name: string,
  version: string,
  ...more: string[]
): Promise<{ exitCode: number | null; code: string; message: string }> {
  const { exitCode, stdout, stderr } = await publish(name, version, ...more);
  expect(stdout).toBe('');
  expect(stderr).not.toMatch(/\n\s+at /);
  const last = stderr.trim().split('\n').at(-1) ?? '';
  const { error } = JSON.parse(last);
  return { exitCode, ...error };
}

const versions = async (): Promise<string[]> => {
  const { releases } = await testbed.json('sitecast', ['release', 'list']);
  return Array.isArray(releases) ? releases.map(({ version }: { version: string }) => version) : [];
};

describe('publishing', () => {
  it('refuses a delta from a release that there is not before anything is sent', async () => {
    await found();
    await image('one');
    await image('two');
    const first = await refused('one', '1.0.0', '--delta-from', '0.9.0');
    expect(first).toMatchObject({ exitCode: 3, code: 'SITECAST_RELEASE_UNKNOWN' });
    await published('one', '1.0.0');
    const chunks = async () =>
      (await readdir(testbed.path('origin'), { recursive: true })).filter(name => name.endsWith('.cacnk'))
        .length;
    const before = await chunks();
    expect(await refused('two', '2.0.0', '--delta-from', '1.0')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_RELEASE_UNKNOWN',
      message: expect.stringContaining('no release 1.0'),
    });
    expect([await versions(), await chunks()]).toEqual([['1.0.0'], before]);
    const second = await published('two', '2.0.0', '--delta-from', '1.0.0');
    expect(second).toMatchObject({ state: 'published', deltas: [{ fromVersion: '1.0.0' }] });
  });

  it('sends only the new chunks of a second release, and nothing of the same one', async () => {
    await found();
    const bytes = await image('one');
    const first = await published('one', '1.0.0');
    expect(first).toMatchObject({ state: 'published', counter: 1, upload: { lengthBytes: IMAGE_BYTES } });
    bytes.fill(7, 1_000_000, 1_000_100);
    await image('two', bytes);
    const second = await published('two', '2.0.0');
    expect(second).toMatchObject({ state: 'published', counter: 2 });
    expect(JSON.parse(JSON.stringify(second.upload)).newChunks).toBeLessThanOrEqual(4);
    const again = await published('two', '2.0.0');
    expect(again).toMatchObject({ state: 'unchanged', counter: 2, upload: { newChunks: 0, sentBytes: 0 } });
    expect(await versions()).toEqual(['1.0.0', '2.0.0']);

    // Publishing again restores what the disk has damaged since.
    await flip(await someFile('origin/repository/chunks', /\.cacnk$/));
    const index = await someFile('origin/repository/targets/releases', /\.camera-2\.caibx$/);
    const right = await readFile(index);
    await flip(index);
    const mended = await published('two', '2.0.0');
    expect(mended).toMatchObject({ state: 'mended', counter: 2, files: ['releases/camera-2.caibx'] });
    expect(await readFile(index)).toEqual(right);
    const one = await published('one', '1.0.0');
    const newChunks = [mended, one].map(({ upload }) => JSON.parse(JSON.stringify(upload)).newChunks);
    expect(newChunks.reduce((sum, count) => sum + count, 0)).toBe(1);
    expect(await testbed.json('sitecast', ['status'])).toMatchObject({
      damage: { releases: [], files: [] },
      warnings: [],
    });
  });

  async function someFile(folder: string, name: RegExp): Promise<string> {
    const found = await readdir(testbed.path(folder), { recursive: true });
    return testbed.path(folder, found.filter(path => name.test(path)).sort()[0] ?? '');
  }

  async function flip(path: string): Promise<void> {
    const bytes = await readFile(path);
    const middle = bytes.length >> 1;
    bytes[middle] = (bytes[middle] ?? 0) ^ 1;
    await writeFile(path, bytes);
  }

  it('resumes where it was interrupted: chunks that the origin has are not sent again', async () => {
    await found();
    await image('large', randomBytes(64_000_000));
    const broken = testbed.start('sitecast', ['release', 'publish', 'large', ...about('1.0.0')]);
    await testbed.until(async () => (await countFiles(testbed.path('origin/staging'))) > 100);
    await broken.stop('SIGKILL');
    expect(await versions()).toEqual([]);
    await origin.stop('SIGKILL');
    origin = await testbed.serve('sitecast-origin', [
      'serve',
      '--data',
      'origin',
      '--listen',
      new URL(origin.url).host,
    ]);
    const { upload } = await published('large', '1.0.0');
    expect(upload).toMatchObject({ lengthBytes: 64_000_000 });
    const { chunks, newChunks } = JSON.parse(JSON.stringify(upload));
    expect(newChunks).toBeLessThan(chunks - 90);
  });

  it.skipIf(casync.isMissing)(
    `accepts what casync made, and casync reads back what was published${casync.why}`,
    async () => {
      await found();
      const bytes = await image('firmware');
      await execute('casync', ['make', '--digest=sha256', '--store=made', 'made.caibx', 'firmware'], {
        cwd: testbed.directory,
      });
      const args = ['release', 'publish', '--caibx', 'made.caibx', '--store', 'made', ...about('1.0.0')];
      expect(await testbed.json('sitecast', args)).toMatchObject({ state: 'published' });
      const [name = ''] = (await readdir(testbed.path('origin/repository/targets/releases'))).filter(file =>
        file.endsWith('.caibx'),
      );
      const index = testbed.path('origin/repository/targets/releases', name);
      await execute('casync', ['extract', `--store=${origin.url}/chunks`, index, 'back'], {
        cwd: testbed.directory,
      });
      expect((await readFile(testbed.path('back'))).equals(bytes)).toBe(true);
      // The image itself under the same version is the same release.
      expect(await published('firmware', '1.0.0')).toMatchObject({ state: 'unchanged' });
    },
  );

  it('sets a floor, names a stepping stone, and withdraws a release', async () => {
    await found();
    await image('one');
    await image('two');
    await published('one', '1.0.0', '--notes', 'first');
    await published('two', '2.0.0', '--min-version', '1.0.0', '--hardware', 'rpi5');
    expect(await testbed.json('sitecast', ['product', 'floor', 'camera', '2.0.0'])).toMatchObject({
      changed: true,
    });
    const lower = await testbed.run('sitecast', ['product', 'floor', 'camera', '1.0.0']);
    expect(lower).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('SITECAST_FLOOR_LOWERED') });
    expect(await testbed.json('sitecast', ['product', 'list'])).toEqual({
      products: [
        {
          product: 'camera',
          hardware: ['rpi4', 'rpi5'],
          floor: { counter: 2, version: '2.0.0' },
          newest: '2.0.0',
        },
      ],
    });
    expect(await testbed.json('sitecast', ['release', 'list', 'camera'])).toMatchObject({
      releases: [
        { version: '1.0.0', belowFloor: true, notes: 'first' },
        { version: '2.0.0', belowFloor: false, minimum: { counter: 1, version: '1.0.0' } },
      ],
    });
    await testbed.json('sitecast', ['release', 'withdraw', 'camera', '1.0.0']);
    expect(await versions()).toEqual(['2.0.0']);
    // Neither its version nor its counter is ever used again.
    expect(await refused('two', '1.0.0')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_VERSION_EXISTS',
      message: expect.stringContaining('withdrawn'),
    });
    expect(await published('one', '1.0.1')).toMatchObject({ counter: 3 });
  });
});

describe('is refused, with a code and nothing published:', () => {
  it('a version that exists with other bytes, for other hardware or with other notes', async () => {
    await found();
    await image('one');
    await image('two');
    await published('one', '1.0.0');
    expect(await refused('two', '1.0.0')).toMatchObject({ exitCode: 3, code: 'SITECAST_VERSION_EXISTS' });
    expect(await refused('one', '1.0.0', '--hardware', 'rpi5')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_VERSION_EXISTS',
    });
    // A release is called unchanged only if it is exactly what was asked for.
    expect(await refused('one', '1.0.0', '--notes', 'first')).toMatchObject({
      code: 'SITECAST_VERSION_EXISTS',
      message: expect.stringContaining('with other notes'),
    });
    expect(await refused('two', '2.0.0', '--counter', '1')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_COUNTER_NOT_RISING',
    });
    expect(await versions()).toEqual(['1.0.0']);
  });

  it('an image that is empty, missing, a folder, or changes while it is read', async () => {
    await found();
    await image('empty', '');
    expect(await refused('empty', '1.0.0')).toMatchObject({ exitCode: 2, code: 'SITECAST_IMAGE_EMPTY' });
    expect(await refused('nowhere', '1.0.0')).toMatchObject({ code: 'SITECAST_SYSTEM_ENOENT' });
    await mkdir(testbed.path('folder'));
    expect(await refused('folder', '1.0.0')).toMatchObject({ exitCode: 2, code: 'SITECAST_NOT_A_FILE' });
    await execute('mkfifo', [testbed.path('pipe')]);
    const piped = ['release', 'publish', '--caibx', 'pipe', '--store', 'folder', ...about('1.0.0')];
    const caibx = await testbed.run('sitecast', piped);
    expect(caibx).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('SITECAST_NOT_A_FILE') });
    await image('moving', randomBytes(64_000_000));
    const pending = refused('moving', '1.0.0');
    await testbed.until(async () => (await countFiles(testbed.path('origin/staging'))) > 20);
    await truncate(testbed.path('moving'), 1_000_000);
    expect(await pending).toMatchObject({ code: 'SITECAST_IMAGE_CHANGED' });
    expect(await versions()).toEqual([]);
  });

  it.each([
    ['a product with a path in it', ['--product', '../camera', '--version', '1', '--hardware', 'rpi4']],
    ['a version with a path in it', ['--product', 'camera', '--version', '../1', '--hardware', 'rpi4']],
    ['an odd hardware', ['--product', 'camera', '--version', '1', '--hardware', 'Raspberry Pi']],
    ['no hardware', ['--product', 'camera', '--version', '1']],
    ['a zstd level beyond the highest', [...about('1'), '--zstd-level', '99']],
    ['chunk sizes that are none', [...about('1'), '--chunk-size', '1:2']],
  ])('%s', async (_what, args) => {
    await image('one', 'x');
    const { exitCode, stderr } = await testbed.run('sitecast', [
      'release',
      'publish',
      'one',
      '--origin',
      origin.url,
      ...args,
    ]);
    expect(exitCode).toBe(2);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  it('a wrong token, a missing one, a role that is too low, an unreachable origin', async () => {
    await found();
    await image('one', 'x');
    await testbed.json('sitecast', [
      'token',
      'create',
      '--name',
      'guest',
      '--role',
      'viewer',
      '--out',
      'viewer.token',
    ]);
    const withToken = (...token: string[]) => refused('one', '1.0.0', '--origin', origin.url, ...token);
    expect(await withToken('--token', `sitecast_${'A'.repeat(43)}`)).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_TOKEN_INVALID',
    });
    expect(await withToken('--token-file', 'viewer.token')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_ROLE_TOO_LOW',
    });
    expect(await withToken('--config', await configWithoutToken())).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_TOKEN_MISSING',
    });
    expect(await refused('one', '1.0.0', '--origin', 'http://127.0.0.1:9')).toMatchObject({ exitCode: 4 });
    expect(await refused('one', '1.0.0', '--origin', 'ftp://x')).toMatchObject({
      exitCode: 2,
      code: 'SITECAST_ORIGIN_URL',
    });
    expect(await versions()).toEqual([]);
  });

  it('a release without signatures, or signed by a key without a role', async () => {
    await found();
    await image('one', 'x');
    await mkdir(testbed.path('others'));
    await testbed.json('sitecast', ['keys', 'create', 'release', '--no-passphrase', '--out', 'others']);
    expect(await refused('one', '1.0.0', '--keys', 'others')).toMatchObject({
      exitCode: 3,
      code: 'SITECAST_SIGNATURES_MISSING',
    });
    expect(await refused('one', '1.0.0', '--keys', 'nowhere')).toMatchObject({
      exitCode: 2,
      code: 'SITECAST_KEYS_MISSING',
    });
    await mkdir(testbed.path('sealed'));
    const env = { SITECAST_PASSPHRASE: 'correct horse' };
    const { publicKey } = await testbed.json('sitecast', ['keys', 'create', 'release', '--out', 'sealed'], {
      env,
    });
    await testbed.json('sitecast', ['keys', 'rotate', 'release', '--add', String(publicKey)]);
    expect(await refused('one', '1.0.0', '--keys', 'sealed')).toMatchObject({
      exitCode: 2,
      code: 'SITECAST_PASSPHRASE_MISSING',
      message: expect.stringContaining('sealed/release-'),
    });
    // The keys were looked for before the image was sent.
    expect(await countFiles(testbed.path('origin/staging/chunks'))).toBe(0);
    await testbed.json('sitecast', [
      'release',
      'draft',
      'one',
      ...about('1.0.0'),
      '--keys',
      'others',
      '--out',
      'draft.json',
    ]);
    const submit = await testbed.run('sitecast', ['release', 'submit', 'draft.json']);
    expect(submit).toMatchObject({
      exitCode: 3,
      stderr: expect.stringContaining('SITECAST_SIGNATURES_MISSING'),
    });
    expect(await versions()).toEqual([]);
  });

  async function configWithoutToken(): Promise<string> {
    await writeFile(testbed.path('no-token.yaml'), `origin: ${origin.url}\n`);
    return 'no-token.yaml';
  }
});

describe('several key holders', () => {
  it('found a repository and publish a release, each on a machine of their own', async () => {
    for (const name of ['alice', 'bob', 'carol']) await holder(name, 'root');
    for (const name of ['dave', 'erin']) await holder(name, 'release');
    const connection = ['--origin', origin.url, '--token-file', 'origin/admin.token'];
    const { needed } = await testbed.json('sitecast', ['init', ...connection, '--draft', 'first.json']);
    expect(needed).toEqual([
      { file: 'root', by: 'root', have: 0, threshold: 2 },
      { file: 'targets', by: 'release', have: 0, threshold: 2 },
    ]);
    for (const name of ['alice', 'carol', 'dave', 'erin']) await signAs(name, 'first.json');
    await testbed.json('sitecast', ['release', 'submit', 'first.json', ...connection]);
    await image('one');
    await testbed.run('sitecast', [
      'release',
      'draft',
      'one',
      ...about('1.0.0'),
      ...connection,
      '--out',
      'release.json',
    ]);
    await writeFile(testbed.path('no-origin.yaml'), '');
    const offline = ['--config', 'no-origin.yaml', '--state', 'new'];
    const nowhere = await testbed.run('sitecast', [
      'release',
      'sign',
      'release.json',
      '--keys',
      'dave',
      ...offline,
    ]);
    expect(nowhere).toMatchObject({
      exitCode: 5,
      stderr: expect.stringMatching(/new \(--state\)[^]*--origin/),
    });
    await signAs('dave', 'release.json', ...connection);
    const early = await testbed.run('sitecast', ['release', 'submit', 'release.json', ...connection]);
    expect(early).toMatchObject({
      exitCode: 3,
      stderr: expect.stringContaining('1 of 2 signatures by release keys'),
    });
    const shown = await signAs('erin', 'release.json', ...connection);
    expect(shown.stderr).toContain('adds release camera 1.0.0 (counter 1) for rpi4');
    expect(shown.stderr).toContain(
      'adds the file of product camera, which each of its releases changes: last counter 1',
    );
    // The output is what the origin published, not the title of the draft.
    const draft = JSON.parse(await readFile(testbed.path('release.json'), 'utf8'));
    await writeFile(
      testbed.path('release.json'),
      JSON.stringify({ ...draft, title: 'release camera 6.6.6' }),
    );
    const submitted = await testbed.run('sitecast', ['release', 'submit', 'release.json', ...connection]);
    expect(submitted.stdout).toContain('published: release 1.0.0 of camera (counter 1)');
    expect(submitted.stdout).not.toContain('6.6.6');
    const again = await testbed.run('sitecast', ['release', 'submit', 'release.json', ...connection]);
    expect(again).toMatchObject({ exitCode: 0 });
    expect(again.stdout).toContain('nothing to do');
    // The draft is based on the state before this one, so no key holder signs it any more.
    const stale = await readFile(testbed.path('release.json'), 'utf8');
    await writeFile(testbed.path('stale.json'), stale.replace(/(expires\S+ \\"20)\d\d/g, '$199'));
    const late = await testbed.run('sitecast', [
      'release',
      'sign',
      'stale.json',
      '--keys',
      'dave',
      ...connection,
    ]);
    expect(late).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('SITECAST_VERSION_CONFLICT') });
    expect((await testbed.json('sitecast', ['release', 'list', ...connection])).releases).toHaveLength(1);
  });

  /** Makes a key on a machine of its own. Only its public half is copied here. */
  async function holder(name: string, role: string): Promise<void> {
    await testbed.json('sitecast', [
      'keys',
      'create',
      role,
      '--name',
      name,
      '--no-passphrase',
      '--out',
      name,
    ]);
    await mkdir(testbed.path('keys'), { recursive: true });
    await copyFile(testbed.path(name, `${role}-${name}.pub`), testbed.path('keys', `${role}-${name}.pub`));
  }

  async function signAs(name: string, draft: string, ...more: string[]) {
    const finished = await testbed.run('sitecast', ['release', 'sign', draft, '--keys', name, ...more]);
    expect(finished).toMatchObject({ exitCode: 0 });
    return finished;
  }
});

describe('keys', () => {
  it('of every role can be replaced, and releases continue', async () => {
    await found();
    await image('one', 'first');
    await published('one', '1.0.0');
    for (const role of ['timestamp', 'snapshot', 'rollouts', 'deltas']) {
      expect(await testbed.json('sitecast', ['keys', 'rotate', role])).toMatchObject({
        title: `another ${role} key`,
      });
    }
    for (const role of ['root', 'release']) {
      const { keys } = await testbed.json('sitecast', ['keys', 'list']);
      const old = Array.isArray(keys) ? keys.find(key => key.role === role) : undefined;
      const { publicKey } = await testbed.json('sitecast', ['keys', 'create', role, '--no-passphrase']);
      await testbed.json('sitecast', [
        'keys',
        'rotate',
        role,
        '--add',
        String(publicKey),
        '--remove',
        old.keyId,
      ]);
    }
    await testbed.json('sitecast', ['keys', 'renew', 'root']);
    await testbed.json('sitecast', ['keys', 'renew', 'release']);
    await image('two', 'second');
    await published('two', '2.0.0');
    expect(await versions()).toEqual(['1.0.0', '2.0.0']);
    const status = await testbed.json('sitecast', ['status']);
    expect(status.versions).toMatchObject({ root: 6 });
    // A client that began with the first root follows all changes.
    expect(await testbed.json('sitecast', ['release', 'list', '--state', 'another'])).toMatchObject({
      releases: [{}, {}],
    });
  });

  it('that are protected by a passphrase sign only with it', async () => {
    const env = { SITECAST_PASSPHRASE: 'correct horse' };
    await testbed.json('sitecast', ['keys', 'create', 'root'], { env });
    await testbed.json('sitecast', ['keys', 'create', 'release'], { env });
    const init = ['init', '--origin', origin.url, '--token-file', 'origin/admin.token'];
    const without = await testbed.run('sitecast', init);
    expect(without).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('SITECAST_PASSPHRASE_MISSING'),
    });
    const wrong = await testbed.run('sitecast', init, { env: { SITECAST_PASSPHRASE: 'wrong horse' } });
    expect(wrong).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining('SITECAST_PASSPHRASE_WRONG'),
    });
    await testbed.json('sitecast', init, { env });
    expect((await stat(testbed.path('root.json'))).size).toBeGreaterThan(100);
  });
});

async function countFiles(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter(entry => entry.isFile()).length;
}
