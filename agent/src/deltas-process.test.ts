import { randomBytes } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readDeltaAbility } from '@sitecast/shared/fleet';
import { FleetRepository, OriginRecords, type PublishedImage } from '@sitecast/shared/testing/origin';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { publishTestDelta, type TestDelta } from './testing/deltas.ts';
import { FakeGateway } from './testing/fake-gateway.ts';
import { AgentProcess } from './testing/process.ts';

// Patches in the real command: what a start does after the process before it was killed, and what a device without an encoder does.

const CHUNK_BYTES = 10_000;
const image1 = randomBytes(10 * CHUNK_BYTES);
const image2 = randomBytes(10 * CHUNK_BYTES);

let directory: string;
let fleet: FleetRepository;
let origin: OriginRecords;
let site: FakeGateway;
let base: PublishedImage;
let target: PublishedImage;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-agent-'));
  fleet = await FleetRepository.create();
  origin = new OriginRecords(fleet);
  site = await FakeGateway.open(origin);
  await writeFile(join(directory, 'root.json'), fleet.rootBytes);
  base = fleet.addRelease({ counter: 1, image: image1, chunkBytes: CHUNK_BYTES });
  fleet.addRollout(1);
  await fleet.publishAll();
  await update();
  target = fleet.addRelease({ counter: 2, image: image2, chunkBytes: CHUNK_BYTES });
  fleet.addRollout(2);
  await fleet.publishAll();
  site.requests.length = 0;
});
afterEach(async () => {
  await site.close();
  await rm(directory, { recursive: true, force: true });
});

const publish = (changes: Partial<TestDelta> = {}) =>
  publishTestDelta(fleet, {
    from: 1,
    to: 2,
    base,
    target,
    firsts: [0, 2, 4, 6, 8],
    chunkCount: 2,
    ...changes,
  });

const args = (...more: string[]) => [
  'update',
  `--data=${join(directory, 'data')}`,
  `--gateway=${site.url}`,
  `--root=${join(directory, 'root.json')}`,
  '--product=camera',
  '--hardware=rpi4',
  `--slot-a=${join(directory, 'a.img')}`,
  `--slot-b=${join(directory, 'b.img')}`,
  ...more,
];
const update = (env: Record<string, string> = {}, ...more: string[]) =>
  AgentProcess.run(args('--no-peers', ...more), env);

/** Each start is killed there. @returns how many starts were, until one ended by itself */
async function deaths(where: string, ...more: string[]): Promise<number> {
  for (let starts = 0; starts < 10; starts += 1) {
    const { signal, exitCode, stdout } = await update({ SITECAST_TEST_KILL_AT: where }, ...more);
    if (signal === 'SIGKILL') continue;
    expect({ exitCode, stdout }).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('completed') });
    return starts;
  }
  return Number.POSITIVE_INFINITY;
}

const spending = async () => JSON.parse(await readFile(join(directory, 'data', 'spending.json'), 'utf8'));
const codes = () => origin.reports.map(({ reason }) => reason?.code);
const chunkIds = () => site.requests.flatMap(line => /\/([0-9a-f]{64})\.cacnk/.exec(line)?.[1] ?? []);
const releaseIds = () => new Set(target.ids.map(id => Buffer.from(id).toString('hex')));
const chunksAsked = () => chunkIds().filter(id => releaseIds().has(id)).length;

describe('an agent that is killed while it applies a patch', () => {
  it('twice by the same one counts the recipe as failed, and goes on by chunks: no start dies of it any more', async () => {
    await publish();
    // As a patch that takes all memory of the machine, or that crashes the runtime.
    expect(await deaths('patch before')).toBe(2);
    expect(await readFile(join(directory, 'a.img'))).toEqual(image2);
    expect(codes()).toContain('SITECAST_PATCH_DEADLY');
    expect((await spending()).failedRecipes).toHaveLength(1);
    expect(chunksAsked()).toBe(10);
  });

  it('again and again, but further each time, keeps to the recipe: a power cut is no fault of it', async () => {
    await publish();
    expect(await deaths('patch before#3')).toBeGreaterThanOrEqual(2);
    expect(await readFile(join(directory, 'a.img'))).toEqual(image2);
    expect(codes()).not.toContain('SITECAST_PATCH_DEADLY');
    expect(chunksAsked()).toBe(0);
    // No patch was fetched twice.
    expect(new Set(chunkIds()).size).toBe(chunkIds().length);
  });

  it('once has no recipe failed', async () => {
    await publish();
    expect((await update({ SITECAST_TEST_KILL_AT: 'patch after' })).signal).toBe('SIGKILL');
    // What is fetched lies there for the next start.
    expect((await readdir(join(directory, 'data', 'patches'))).length).toBeGreaterThan(0);
    expect((await update()).exitCode).toBe(0);
    expect(codes()).not.toContain('SITECAST_PATCH_DEADLY');
    expect(chunksAsked()).toBe(0);
  });

  it('has used up its time as far as it was noted ahead: --max-apply-time is for all starts together', async () => {
    await publish();
    // The only patch that is begun is killed before it is done: no process ever knew what it took.
    expect(await deaths('patch before', '--max-apply-time=1ms')).toBe(1);
    expect((await spending()).applyMs).toBeGreaterThanOrEqual(1);
    expect(chunksAsked()).toBe(10);
  });
});

it('with peers, a gateway that has the recipe and not the patches costs seconds, and is not banned', async () => {
  await publish();
  site.misbehave = path => {
    const id = /\/([0-9a-f]{64})\.cacnk/.exec(path)?.[1];
    return id !== undefined && !releaseIds().has(id) ? 'missing' : undefined;
  };
  const ended = await AgentProcess.run(args('--no-mdns', '--peer-listen=127.0.0.1:0'));
  expect(ended).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('completed') });
  expect(await readFile(join(directory, 'a.img'))).toEqual(image2);
  const said = origin.reports.find(({ reason }) => reason?.code === 'SITECAST_PATCHES_UNAVAILABLE');
  // Not the minute without any chunk after which a download gives up.
  expect(said?.reason?.message).toContain('nobody hands out chunk');
  expect(codes()).not.toContain('SITECAST_SOURCE_BANNED');
});

/** A copy of what is installed, as `npm ci --omit=optional` leaves it. */
async function installedWithout(...omitted: string[]): Promise<string> {
  const top = fileURLToPath(new URL('../..', import.meta.url));
  const copy = join(directory, 'installed');
  await mkdir(join(copy, 'node_modules'), { recursive: true });
  for (const part of ['bin', 'bundle', 'package.json'])
    await cp(join(top, 'agent', part), join(copy, 'agent', part), { recursive: true });
  const modules = join(top, 'node_modules');
  for (const name of await readdir(modules))
    if (!omitted.includes(name) && name !== '@sitecast')
      await symlink(join(modules, name), join(copy, 'node_modules', name));
  return join(copy, 'agent/bin/sitecast-agent.js');
}

it('without an encoder (`npm ci --omit=optional`) says so, and plans the windows that need it by chunks', async () => {
  await publish({ encoder: 'zstd-1.5.5-wasm' });
  const bin = await installedWithout('zstd-wasm-0.0.20', 'pako-2.2.0');
  const ended = await AgentProcess.run(args('--no-peers'), {}, bin);
  expect(ended).toMatchObject({ exitCode: 0, stderr: expect.not.stringContaining('Error') });
  expect(await readFile(join(directory, 'a.img'))).toEqual(image2);
  // The first of five windows.
  expect(chunksAsked()).toBe(2);
  const { encoders, recipeFormats } = readDeltaAbility(origin.reports.at(-1)?.inventory) ?? {};
  expect({ encoders, recipeFormats }).toEqual({
    encoders: ['lz4hc-1.9.4', 'liblzma-5.4-ported'],
    recipeFormats: [1],
  });
  expect(codes()).not.toContain('SITECAST_PATCH_PIECE');
});

it('with all encoders applies all windows of the same recipe', async () => {
  await publish({ encoder: 'zstd-1.5.5-wasm' });
  expect((await update()).exitCode).toBe(0);
  expect(chunksAsked()).toBe(0);
  const { encoders } = readDeltaAbility(origin.reports.at(-1)?.inventory) ?? {};
  expect(encoders).toEqual(['zstd-1.5.5-wasm', 'pako-2.2.0', 'lz4hc-1.9.4', 'liblzma-5.4-ported']);
});
