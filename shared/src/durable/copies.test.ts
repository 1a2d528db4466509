import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readCopy, setAside, writeCopy } from './copies.ts';

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-copies-'));
  path = join(directory, 'state.json');
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

it('returns a copy as it was written, up to the bound', async () => {
  expect(await readCopy(path, 100)).toBeUndefined();
  await writeCopy(path, 'x'.repeat(100));
  expect(String(await readCopy(path, 100))).toBe('x'.repeat(100));
  expect(await readCopy(path, 99)).toBeUndefined();
});

it('returns no copy in which a byte has changed or is missing', async () => {
  await writeCopy(path, '{"booted":"A"}');
  const whole = await readFile(`${path}.copy`);
  for (let at = 0; at < whole.length; at += 1) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] ?? 0) ^ 1;
    await writeFile(`${path}.copy`, changed);
    expect(await readCopy(path, 1000)).toBeUndefined();
    await writeFile(`${path}.copy`, whole.subarray(0, at));
    expect(await readCopy(path, 1000)).toBeUndefined();
  }
});

it('sets a directory aside like a file, and replaces what was set aside before', async () => {
  for (let round = 1; round <= 13; round += 1) {
    if (round % 3 === 0) await writeFile(path, String(round));
    else await mkdir(join(path, 'inside'), { recursive: true });
    await setAside(path);
  }
  expect(await readdir(directory)).toHaveLength(9);
  expect(await readdir(`${path}.damaged.9`)).toEqual(['inside']);
});

it('sets a damaged file aside; the first nine keep names of their own', async () => {
  expect(await setAside(path)).toBeUndefined();
  for (let round = 1; round <= 11; round += 1) {
    await writeFile(path, String(round));
    await setAside(path);
  }
  const names = await readdir(directory);
  expect(names).toHaveLength(9);
  expect(await readFile(`${path}.damaged`, 'utf8')).toBe('1');
  expect(await readFile(`${path}.damaged.9`, 'utf8')).toBe('11');
});
