import { runProgram } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { originProgram } from './program.ts';
import type { OriginSettings } from './settings.ts';

async function run(...args: string[]) {
  let text = '';
  let served: OriginSettings | undefined;
  let level: string | undefined;
  const write = (chunk: string) => {
    text += chunk;
  };
  const commands = {
    serve: async (settings: OriginSettings, log: { level: string }) => {
      served = settings;
      level = log.level;
    },
    recover: async () => ({
      from: 'http://gateway:7401',
      unread: [],
      versions: { timestamp: 7, targets: 3, root: 1 },
      releases: [{ product: 'camera', counter: 2 }],
      lacking: [{ product: 'camera', counter: 2, version: '2.0.0', chunks: 5 }],
      paused: ['1f0c9a5be6d27788'],
      lost: ['releases/door-1.json'],
      omitted: [{ role: 'deltas', count: 3, first: 'deltas//x' }],
      leftOut: [{ why: 'noRoom' as const, count: 4, first: 'deltas/camera-2-from-1.recipe' }],
      missingKeys: [{ role: 'snapshot' as const, problem: 'keys/snapshot.pem is another key' }],
      laterEntries: 'lost' as const,
      logRestoredTo: { seq: 12, hash: 'a'.repeat(64), at: '2030-01-01T00:00:00.000Z' },
      database: {
        lost: 'the database in d has lost what it had: 2 are missing',
        damagedFiles: ['000005.ldb'],
        unreadable: { member: 1 },
        putAside: undefined,
      },
      revokedAgain: ['12D3KooWx'],
      adminTokenPath: 'd/admin.token',
    }),
  };
  const program = originProgram(commands, write);
  const exitCode = await runProgram(program, args, { streams: { out: write, err: write } });
  return { exitCode, text, served, level };
}

it('prints its help and its exit codes for --help', async () => {
  const { exitCode, text } = await run('--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('Usage: sitecast-origin');
  expect(text).toContain('Exit codes:');
});

it('shows examples with serve --help', async () => {
  const { exitCode, text } = await run('serve', '--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('sitecast-origin serve --data ./origin');
});

it('refuses an unknown option with exit code 2 and names it', async () => {
  const { exitCode, text } = await run('--frobnicate');
  expect(exitCode).toBe(2);
  expect(text).toContain('--frobnicate');
});

it('refuses what is no multiaddress, with an example of one', async () => {
  for (const option of ['--gossip-listen', '--gossip-announce']) {
    const { exitCode, text } = await run('serve', '--data', 'd', option, '127.0.0.1:7402');
    expect([exitCode, text]).toEqual([2, expect.stringContaining('/ip4/0.0.0.0/tcp/7402')]);
  }
});

it('listens on loopback only by default', async () => {
  const { served, level } = await run('serve', '--data', 'd');
  expect(served).toEqual({
    gossip: { listen: [], announce: [], fleetKeyFile: undefined },
    dataDirectory: 'd',
    listen: { host: '127.0.0.1', port: 7400 },
    tls: undefined,
    stagingTtlMs: 30 * 86_400_000,
    maxStagedBytes: 64 * 2 ** 30,
    maxReportBytes: 8 * 2 ** 30,
    reserveBytes: 256 * 2 ** 20,
    scrubBytesPerS: 4 * 2 ** 20,
    makesDeltas: true,
    acceptedDay: undefined,
  });
  expect(level).toBe('info');
});

it('accepts its settings', async () => {
  const args = [
    '--listen',
    '[::1]:0',
    '--staging-ttl',
    '2d',
    '--max-staged-bytes',
    '500MiB',
    '--max-report-bytes',
    '2GiB',
    '--make-deltas',
    'asked',
    '--scrub-rate',
    '0',
    '--accept-clock',
    '2028-02-29',
    '--log-level',
    'debug',
    '--reserve',
    '0',
  ];
  const { served, level } = await run('serve', '--data', 'd', ...args);
  expect(served).toMatchObject({
    listen: { host: '::1', port: 0 },
    stagingTtlMs: 2 * 86_400_000,
    maxStagedBytes: 500 * 2 ** 20,
    maxReportBytes: 2 * 2 ** 30,
    reserveBytes: 0,
    scrubBytesPerS: 0,
    makesDeltas: false,
    acceptedDay: '2028-02-29',
  });
  expect(level).toBe('debug');
});

it.each([
  ['0.0.0.0:7400', 'SITECAST_TLS_REQUIRED'],
  ['[::]:7400', 'SITECAST_TLS_REQUIRED'],
  ['192.168.1.5:7400', 'SITECAST_TLS_REQUIRED'],
  ['127.0.0.1.example.org:7400', 'SITECAST_TLS_REQUIRED'],
])('refuses to listen on %s without TLS, unless a proxy does it', async (listen, code) => {
  const { exitCode, text, served } = await run('serve', '--data', 'd', '--listen', listen);
  expect(exitCode).toBe(2);
  expect(text).toContain(code);
  expect(served).toBeUndefined();
  expect((await run('serve', '--data', 'd', '--listen', listen, '--behind-tls-proxy')).exitCode).toBe(0);
  const tls = ['--tls-cert', 'c.pem', '--tls-key', 'k.pem'];
  const secured = await run('serve', '--data', 'd', '--listen', listen, ...tls);
  expect(secured.served?.tls).toEqual({ certPath: 'c.pem', keyPath: 'k.pem' });
});

it.each(['127.0.0.1:1', '127.1.2.3:1', 'localhost:1', '[::1]:1'])('treats %s as loopback', async listen => {
  expect((await run('serve', '--data', 'd', '--listen', listen)).exitCode).toBe(0);
});

it.each([
  ['no data directory', ['serve']],
  ['a port beyond 65535', ['serve', '--data', 'd', '--listen', '127.0.0.1:65536']],
  ['an address without a port', ['serve', '--data', 'd', '--listen', '127.0.0.1']],
  ['a certificate without its key', ['serve', '--data', 'd', '--tls-cert', 'c.pem']],
  ['a size that is none', ['serve', '--data', 'd', '--max-staged-bytes', '0']],
  ['a unit that is none', ['serve', '--data', 'd', '--max-staged-bytes', '5GB']],
  ['a day that no month has', ['serve', '--data', 'd', '--accept-clock', '2027-02-29']],
  ['a time for a day', ['serve', '--data', 'd', '--accept-clock', '2027-02-28T00:00:00Z']],
  ['an unknown log level', ['serve', '--data', 'd', '--log-level', 'loud']],
])('refuses %s with exit code 2', async (_what, args) => {
  const { exitCode, served } = await run(...args);
  expect(exitCode).toBe(2);
  expect(served).toBeUndefined();
});

it('prints after a recovery what was restored, what is lost, and which rollouts wait for a review', async () => {
  const { exitCode, text } = await run('recover', '--data', 'd', '--from', 'http://gateway:7401');
  expect(text).toContain('the audit log goes on from entry 12 of 2030-01-01T00:00:00.000Z');
  expect(exitCode).toBe(0);
  expect(text).toContain('caught up with http://gateway:7401');
  expect(text).toContain('5 chunks of camera 2.0.0 are lost');
  expect(text).toContain('sitecast rollout resume 1f0c9a5be6d27788');
  expect(text.split('\n').slice(0, 4)).toEqual([
    'the database in d has lost what it had: 2 are missing',
    'unreadable, in whole or in part: 000005.ldb',
    'deleted, for they could not be read: 1 of member',
    'revoked again: 12D3KooWx',
  ]);
  expect(text).toContain("no admin's API token was left: a new one is in d/admin.token");
});
