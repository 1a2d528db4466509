import { runProgram } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { gatewayProgram } from './program.ts';
import type { GatewaySettings } from './settings.ts';

async function run(...args: string[]) {
  let text = '';
  let settings: GatewaySettings | undefined;
  const write = (chunk: string) => {
    text += chunk;
  };
  const program = gatewayProgram(async given => {
    settings = given;
  });
  const exitCode = await runProgram(program, args, { streams: { out: write, err: write } });
  return { exitCode, text, settings };
}

it('explains itself, its examples and its exit codes with --help', async () => {
  const { exitCode, text } = await run('--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('Usage: sitecast-gateway');
  expect(text).toContain('Exit codes:');
  expect((await run('serve', '--help')).text).toContain('Examples:');
});

it.each([
  ['an unknown option', ['serve', '--data', 'd', '--frobnicate'], '--frobnicate'],
  ['an address without a port', ['serve', '--data', 'd', '--listen', 'here'], '127.0.0.1:7401'],
  ['a size in no known unit', ['serve', '--data', 'd', '--cache-bytes', '20GB'], '20GiB'],
  [
    'an origin that is no URL',
    ['serve', '--data', 'd', '--origin', 'updates'],
    'https://updates.example.com',
  ],
  ['no data directory', ['serve'], '--data'],
])('refuses %s with exit code 2 and says what it wants', async (_what, args, message) => {
  const { exitCode, text } = await run(...args);
  expect(exitCode).toBe(2);
  expect(text).toContain(message);
});

it('takes sizes, addresses and several upstreams', async () => {
  const args =
    'serve --data d --origin http://127.0.0.1:7400/ --listen [::1]:0 --cache-bytes 2MiB --upstream http://a:1 http://b:2 --log-level warn';
  const { settings } = await run(...args.split(' '));
  expect(settings).toMatchObject({
    origin: 'http://127.0.0.1:7400',
    listen: { host: '::1', port: 0 },
    cacheBytes: 2 * 2 ** 20,
    upstream: ['http://a:1', 'http://b:2'],
    logLevel: 'warn',
  });
});
