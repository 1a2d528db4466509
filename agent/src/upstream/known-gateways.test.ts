import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KnownGateways } from './known-gateways.ts';

const HOUR_MS = 3_600_000;
const [FIRST, SECOND, THIRD] = ['http://first:7401', 'http://second:7401', 'http://third:7401'];

let directory: string;
let nowMs: number;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-known-'));
  nowMs = 1000;
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const open = (urls = [FIRST, SECOND, THIRD]) => KnownGateways.open(directory, urls, () => nowMs);
const stored = async () => JSON.parse(await readFile(join(directory, 'gateways.json'), 'utf8')).servers;

it('knows after a restart which server a URL leads to, as far as the settings still have it', async () => {
  const known = await open();
  expect(known.at(FIRST).name).toBeUndefined();
  expect(await known.at(FIRST).learn('a')).toBe(true);
  expect(await known.at(SECOND).learn('b')).toBe(true);
  const again = await open([SECOND, THIRD]);
  expect([FIRST, SECOND, THIRD].map(url => again.at(url).name)).toEqual([undefined, 'b', undefined]);
});

it.each(['', 'null', '{', '{"format":"other","servers":{}}', `{"format":"${'x'.repeat(70_000)}"}`])(
  'begins anew with a damaged file (case %#)',
  async content => {
    await writeFile(join(directory, 'gateways.json'), content);
    const known = await open();
    expect(known.at(FIRST).name).toBeUndefined();
    expect(await known.at(FIRST).learn('a')).toBe(true);
    expect((await open()).at(FIRST).name).toBe('a');
  },
);

it('goes on where it cannot write', async () => {
  await rm(directory, { recursive: true });
  const known = await open();
  expect(await known.at(FIRST).learn('a')).toBe(true);
  expect(known.at(FIRST).name).toBe('a');
});

it('writes a URL that leads to one server after the other at most once an hour', async () => {
  const known = await open();
  for (const name of ['a', 'b', 'c', 'd']) expect(await known.at(FIRST).learn(name)).toBe(true);
  expect(known.at(FIRST).name).toBe('d');
  expect(await stored()).toEqual({ [FIRST]: { name: 'b', before: 'a' } });
  nowMs += HOUR_MS;
  await known.at(FIRST).learn('e');
  expect(await stored()).toEqual({ [FIRST]: { name: 'e', before: 'd' } });
});

describe('a server that names another one', () => {
  it('is not believed while that one answers at a URL of its own, in this process or after a restart', async () => {
    const known = await open();
    await known.at(FIRST).learn('a');
    await known.at(SECOND).learn('b');
    expect(await known.at(FIRST).learn('b')).toBe(false);
    expect(known.at(FIRST).name).toBe('a');
    for (let hour = 0; hour < 30; hour += 1) {
      nowMs += HOUR_MS;
      known.at(SECOND).confirm();
      expect(await known.at(FIRST).learn('b')).toBe(false);
    }
    expect(await (await open()).at(FIRST).learn('b')).toBe(false);
  });

  it('gains nothing by naming a third one first', async () => {
    const known = await open();
    await known.at(FIRST).learn('a');
    await known.at(SECOND).learn('b');
    await known.at(THIRD).learn('a');
    expect(await known.at(FIRST).learn('z')).toBe(true);
    for (const url of [FIRST, THIRD]) expect(await known.at(url).learn('b')).toBe(false);
  });

  it('is believed where that one has moved there: it no longer answers where it was, or has not for a day', async () => {
    const swapped = await open();
    await swapped.at(FIRST).learn('a');
    await swapped.at(SECOND).learn('b');
    expect(await swapped.at(FIRST).learn('b')).toBe(false);
    expect(await swapped.at(SECOND).learn('a')).toBe(true);
    expect(await swapped.at(FIRST).learn('b')).toBe(true);
    await rm(join(directory, 'gateways.json'));
    const gone = await open();
    await gone.at(FIRST).learn('a');
    await gone.at(SECOND).learn('b');
    nowMs += 24 * HOUR_MS;
    expect(await gone.at(FIRST).learn('b')).toBe(true);
  });

  it('is believed where both URLs led to one server, which was replaced', async () => {
    const known = await open();
    await known.at(FIRST).learn('a');
    await known.at(SECOND).learn('a');
    expect(await known.at(FIRST).learn('b')).toBe(true);
    expect(await (await open()).at(SECOND).learn('b')).toBe(true);
  });
});
