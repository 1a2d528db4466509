import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runProgram } from '@sitecast/shared/command';
import { afterAll, expect, it } from 'vitest';
import { gatewayProgram } from './program.ts';
import type { GatewaySettings } from './settings.ts';
import { removeTemporaryDirectories, temporaryDirectory } from './testing/harness.ts';

afterAll(removeTemporaryDirectories);

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

it('prints its help, with examples and exit codes, for --help', async () => {
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
  ['a rate in bytes', ['serve', '--data', 'd', '--wan-rate', '10MB'], '10Mbit'],
  ['quiet hours that are none', ['serve', '--data', 'd', '--quiet-hours', 'always'], 'Mon-Fri 08:00-18:00'],
  ['a place for peers that is none', ['serve', '--data', 'd', '--peer-listen', 'here'], '0.0.0.0:7403'],
  [
    'an address over UDP',
    ['serve', '--data', 'd', '--gossip-listen', '/ip4/0.0.0.0/udp/7402/quic-v1'],
    'expected a TCP address',
  ],
  ['no data directory', ['serve'], '--data'],
])('refuses %s with exit code 2, and says what it expects', async (_what, args, message) => {
  const { exitCode, text } = await run(...args);
  expect(exitCode).toBe(2);
  expect(text).toContain(message);
});

it('exchanges chunks with devices by default', async () => {
  const [usual, off, elsewhere] = [
    await run('serve', '--data', 'd'),
    await run('serve', '--data', 'd', '--no-peers'),
    await run('serve', '--data', 'd', '--peer-listen', '192.0.2.7:7000'),
  ];
  expect(usual.settings).toMatchObject({ peers: true, mdns: true });
  expect(usual.settings?.peerListen).toBeUndefined();
  expect(off.settings).toMatchObject({ peers: false });
  expect(elsewhere.settings).toMatchObject({ peers: true, peerListen: '/ip4/192.0.2.7/tcp/7000' });
});

it('accepts the rate of the WAN, and fetches ahead by default', async () => {
  const wan = ['--wan-rate', '10Mbit', '--quiet-hours', 'Mon-Fri 08:00-18:00', '--quiet-rate', '512kbit'];
  const { settings } = await run('serve', '--data', 'd', ...wan);
  expect(settings).toMatchObject({
    wanRate: 1_250_000,
    quietHours: 'Mon-Fri 08:00-18:00',
    quietRate: 64_000,
    prefetch: true,
    mdns: true,
  });
  expect((await run('serve', '--data', 'd', '--no-prefetch')).settings).toMatchObject({ prefetch: false });
});

it('accepts sizes, addresses and several upstreams', async () => {
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

it('refuses what is no multiaddress or no URL, with an example of one', async () => {
  const peer = '/p2p/12D3KooWB3KcnuwcLzqLKXstxYpVNEvM6cjAfJZFMSa4BqHZMzi2';
  const wrong: [option: string, value: string, says: string][] = [
    ['--gossip-listen', '127.0.0.1:7402', '/ip4/0.0.0.0/tcp/7402'],
    ['--gossip-listen', '/ip4/300.0.0.1/tcp/7402', '/ip4/0.0.0.0/tcp/7402'],
    ['--gossip-listen', '/ip4/127.0.0.1/tcp/70000', '/ip4/0.0.0.0/tcp/7402'],
    ['--gossip-announce', 'north.example.com:7402', '/dns4/north.example.com/tcp/7402'],
    ['--gossip-peer', '127.0.0.1:7402', 'such as /ip4/'],
    ['--gossip-peer', '/ip4/10.20.0.5/tcp/7402', '/p2p/12D3KooW…'],
    ['--gossip-peer', '/ip4/10.20.0.5/tcp/7402/p2p/nobody', '/p2p/12D3KooW…'],
    ['--upstream', 'foo', 'https://'],
    ['--lan-url', 'foo', 'https://'],
    ['--site-gateway', 'foo', 'https://'],
  ];
  for (const [option, value, says] of wrong) {
    const { exitCode, text } = await run('serve', '--data', 'd', option, value);
    expect([option, exitCode, text]).toEqual([option, 2, expect.stringContaining(says)]);
    expect(text).toContain(option);
  }
  const path = join(await temporaryDirectory(), 'gateway.yaml');
  const listed = [`/ip4/10.20.0.5/tcp/7402${peer}`, `/dns4/south.example.com/tcp/1${peer}`];
  await writeFile(path, `data: d\ngossip-peer: [${listed.join(', ')}]\ngossip-listen: /ip6/::/tcp/0\n`);
  expect((await run('serve', '--config', path)).settings).toMatchObject({
    gossipPeer: listed,
    gossipListen: ['/ip6/::/tcp/0'],
  });
  const flags = listed.flatMap(address => ['--gossip-peer', address]);
  expect((await run('serve', '--data', 'd', ...flags)).settings).toMatchObject({ gossipPeer: listed });
});

it('accepts disabled features from a settings file, too', async () => {
  const path = join(await temporaryDirectory(), 'gateway.yaml');
  await writeFile(path, 'data: d\nno-prefetch: true\nno-mdns: false\nquiet-rate: 2Mbit\n');
  const { settings } = await run('serve', '--config', path);
  expect(settings).toMatchObject({ prefetch: false, mdns: true, quietRate: 250_000 });
  await writeFile(path, 'data: d\nno-prefetch: perhaps\n');
  expect((await run('serve', '--config', path)).text).toContain("'no-prefetch' must be true or false");
});
