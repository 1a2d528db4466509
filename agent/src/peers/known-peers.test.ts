import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newIdentity } from '@sitecast/shared/swarm/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { durableFiles } from '../state/durable-files.ts';
import { KnownPeers } from './known-peers.ts';

let directory: string;
let nowMs: number;
let warnings: string[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-known-'));
  nowMs = 0;
  warnings = [];
});
afterEach(() => rm(directory, { recursive: true }));

const open = (files: Parameters<typeof KnownPeers.open>[1]['files'] = durableFiles): Promise<KnownPeers> =>
  KnownPeers.open(directory, { files, log: (_, message) => warnings.push(message), now: () => nowMs });
const peer = (port = 7403) => {
  const { id } = newIdentity();
  return { id, addresses: [`/ip4/192.0.2.1/tcp/${port}/p2p/${id}`] };
};

it('remembers over a restart which devices gateways have named, the latest first', async () => {
  const [one, two, three] = [peer(), peer(), peer()];
  const known = await open();
  for (const each of [one, two, three]) await known.note([each]);
  expect((await open()).all).toEqual([three, two, one]);
});

it('keeps the last 256', async () => {
  const all = Array.from({ length: 260 }, () => peer());
  const known = await open();
  await known.note(all);
  expect((await open()).all).toEqual(all.slice(-256).reverse());
});

it('writes nothing where nothing has changed, and writes rarely where other devices are named all the time', async () => {
  let writes = 0;
  const known = await open({ replace: async () => void (writes += 1) });
  const first = peer();
  for (let times = 0; times < 5; times += 1) await known.note([first]);
  expect(writes).toBe(1);
  for (let minute = 0; minute < 100; minute += 1) {
    await known.note([peer()]);
    nowMs += 60_000;
  }
  expect(writes).toBeGreaterThan(20);
  expect(writes).toBeLessThanOrEqual(26);
});

it('begins anew where the file is damaged or contains wrong addresses, and works where it cannot be written', async () => {
  const path = join(directory, 'peers.json');
  const other = peer();
  const wrong = { ...other, addresses: ['/dns4/attacker.example/tcp/1'] };
  for (const content of ['', '{', '[]', JSON.stringify({ format: 'sitecast-peers-1', peers: [wrong] })]) {
    await writeFile(path, content);
    expect((await open()).all).toEqual([]);
  }
  const before = await readFile(path, 'utf8');
  const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
  const known = await open({ replace: () => Promise.reject(full) });
  await known.note([other]);
  expect(known.all).toEqual([other]);
  expect(warnings).toHaveLength(1);
  expect(await readFile(path, 'utf8')).toBe(before);
});
