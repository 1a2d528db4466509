import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Outcome } from '../bench/site/measure.ts';
import { judge, SCENARIOS } from '../bench/site/scenarios.ts';
import { torrentOf } from '../bench/site/torrent.ts';

const MAIN = fileURLToPath(new URL('../dist/bench/main.js', import.meta.url));
const START_TIMEOUT_MS = 60_000;
const cannot = canMakeNamespaces() ? '' : ' (skipped: no network namespace can be made here)';

function canMakeNamespaces(): boolean {
  const space = `sc-${process.pid}-probe`;
  if (!existsSync('/dev/net/tun') || spawnSync('ip', ['netns', 'add', space]).status !== 0) return false;
  return spawnSync('ip', ['netns', 'delete', space]).status === 0;
}

function startBench(env: Record<string, string>): ChildProcess {
  const stdio = ['ignore', 'pipe', 'pipe'] as const;
  return spawn(process.execPath, [MAIN, 'site'], {
    env: { PATH: process.env.PATH, ...env },
    stdio: [...stdio],
  });
}

it('the site bench names the programs that it lacks in one line', async () => {
  const bench = startBench({ PATH: '/nowhere' });
  let said = '';
  bench.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text));
  const [exitCode]: unknown[] = await once(bench, 'close');
  expect(exitCode).toBe(1);
  expect(said).toMatch(
    /^site: [^\n]*the program cc is missing \(on Debian: apt-get install gcc libc6-dev\)[^\n]*\n$/,
  );
});

it.skipIf(cannot !== '')(
  `an interrupted site bench leaves no namespace and no process behind${cannot}`,
  async () => {
    const bench = startBench({ SITECAST_BENCH_SITE: 'testbed-wan' });
    const mine = `sc-${bench.pid}-`;
    const spaces = () => execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).includes(mine);
    const processes = () =>
      execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).includes(`${mine}o wan0`);
    const endMs = Date.now() + START_TIMEOUT_MS;
    while (!(spaces() && processes())) {
      if (bench.exitCode !== null || Date.now() > endMs) throw new Error('the bench never made its network');
      await sleep(20);
    }
    bench.kill('SIGINT');
    const [exitCode]: unknown[] = await once(bench, 'close');
    expect(exitCode).toBe(130);
    expect(spaces()).toBe(false);
    expect(processes()).toBe(false);
  },
);

describe('a target of the site bench', () => {
  const IMAGE_BYTES = 32 * 2 ** 20;
  const done: Outcome = {
    finished: 8,
    ms: 14_000,
    wanBytes: 1.053 * IMAGE_BYTES,
    resentBytes: 0,
    gatewayBytes: 8 * IMAGE_BYTES,
    busy: 1,
    gatewayCpuS: 1,
    agentsCpuS: 1,
    agentRssMib: 100,
    wrong: [],
  };
  const judged = (name: string, changes: Partial<Outcome>): string[] => {
    const scenario = SCENARIOS.find(one => one.name === name);
    if (!scenario) throw new Error(`there is no scenario ${name}`);
    return judge(scenario, { ...done, ...changes }, IMAGE_BYTES);
  };

  it('is met at its bound, and missed beyond', () => {
    expect(judged('thin-wan-8', {})).toEqual([]);
    expect(judged('thin-wan-8', { wanBytes: 1.054 * IMAGE_BYTES })).toEqual(['WAN > 1.053']);
    expect(judged('thin-wan-8', { ms: 14_900 })).toEqual(['time > 1.06']);
    expect(judged('thin-gateway', { ms: 4200 })).toEqual(['gateway > 1.5']);
  });

  it('counts no byte that TCP retransmitted', () => {
    const lost = { wanBytes: 1.07 * IMAGE_BYTES, resentBytes: 0.02 * IMAGE_BYTES };
    expect(judged('lossy-wan', lost)).toEqual([]);
    expect(judged('lossy-wan', { ...lost, resentBytes: 0 })).toEqual(['WAN > 1.053']);
  });

  it('is missed where a device has not finished, or has finished with a wrong slot', () => {
    expect(judged('no-peers', { finished: 7, ms: Number.NaN })).toEqual(['7 of 8 finished']);
    expect(judged('no-peers', { wrong: ['d1-b.img'] })).toEqual(['1 slots are wrong']);
  });

  it('is missed where the WAN was used after the gateway’s cache was filled', () => {
    expect(judged('gateway-dies', { wanBytes: 0.02 * IMAGE_BYTES })).toEqual(['WAN > 0.01']);
  });
});

it('a torrent names its pieces by their SHA-1', () => {
  const torrent = torrentOf('image', Buffer.alloc(256 * 1024 + 1), 'http://tracker/announce').toString(
    'latin1',
  );
  expect(torrent).toMatch(/^d8:announce23:http:\/\/tracker\/announce4:infod6:lengthi262145e4:name5:image/);
  expect(torrent).toContain('12:piece lengthi262144e6:pieces40:');
  expect(torrent.endsWith('ee')).toBe(true);
});
