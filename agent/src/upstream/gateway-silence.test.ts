import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type DurableFiles, durableFiles } from '../state/durable-files.ts';
import { StateFile } from '../state/state-file.ts';
import { GatewaySilence } from './gateway-silence.ts';

const MINUTE_MS = 60_000;
const MAX_MS = 360 * MINUTE_MS;

let gateways: { answers: number };
let nowMs: number;
let directory: string;
let stateFile: StateFile;
let failure: Error | undefined;
let writes: number;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-silence-'));
  gateways = { answers: 0 };
  nowMs = 0;
  failure = undefined;
  writes = 0;
});
afterEach(() => rm(directory, { recursive: true }));

const files: DurableFiles = {
  ...durableFiles,
  replace: async (...about) => {
    writes += 1;
    if (failure) throw failure;
    await durableFiles.replace(...about);
  },
};

/** The agent starts. */
async function open(): Promise<GatewaySilence> {
  stateFile = await StateFile.open(directory, files);
  return new GatewaySilence({ gateways, stateFile, maxMs: MAX_MS, monotonicMs: () => nowMs });
}

/** Asks the gateways once a minute for so long. */
async function pass(silence: GatewaySilence, minutes: number): Promise<void> {
  for (let minute = 0; minute <= minutes; minute += 1) {
    if (minute > 0) nowMs += MINUTE_MS;
    await silence.note();
  }
}

it('counts the time between tries that no gateway has answered, until one answers', async () => {
  const silence = await open();
  await pass(silence, 90);
  expect(silence.forMs).toBe(90 * MINUTE_MS);
  gateways.answers += 1;
  // At once: a gateway that says "not now" is asked long after the others were tried.
  expect(silence.forMs).toBe(0);
  await silence.note();
  expect(silence.forMs).toBe(0);
  expect(stateFile.current.silentMs).toBe(0);
  await pass(silence, 10);
  expect(silence.forMs).toBe(10 * MINUTE_MS);
});

it('counts an answer between two tries, and of a long pause, as of a suspended machine, ten minutes', async () => {
  const silence = await open();
  await silence.note();
  nowMs += 500 * MINUTE_MS;
  await silence.note();
  expect(silence.forMs).toBe(10 * MINUTE_MS);
  gateways.answers += 1;
  nowMs += MINUTE_MS;
  await silence.note();
  expect(silence.forMs).toBe(0);
});

it('goes on after a reboot where it was written down, less half an hour; the time that it was off does not count', async () => {
  await pass(await open(), 200);
  expect(stateFile.current.silentMs).toBe(180 * MINUTE_MS);
  nowMs += 1000 * MINUTE_MS;
  const later = await open();
  expect(later.forMs).toBe(150 * MINUTE_MS);
  await later.note();
  expect(later.forMs).toBe(150 * MINUTE_MS);
  await pass(later, 20);
  expect(later.forMs).toBe(170 * MINUTE_MS);
});

it('is never long enough right after a start, whatever is written down, and is written down a few times only', async () => {
  await pass(await open(), 2000);
  expect(writes).toBe(12);
  expect(stateFile.current.silentMs).toBe(MAX_MS);
  const later = await open();
  expect(later.forMs).toBe(MAX_MS - 30 * MINUTE_MS);
  await stateFile.change({ silentMs: 1e15 });
  expect((await open()).forMs).toBe(MAX_MS - 30 * MINUTE_MS);
});

it('a full disk keeps it from being written down, not from being right', async () => {
  const silence = await open();
  await pass(silence, 100);
  failure = Object.assign(new Error('no space left'), { code: 'ENOSPC', errno: -28, syscall: 'write' });
  gateways.answers += 1;
  await silence.note();
  expect(silence.forMs).toBe(0);
  failure = undefined;
  await silence.note();
  expect(stateFile.current.silentMs).toBe(0);
});
