import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { lockDirectory } from './directory-lock.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-lock-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

it.each([undefined, '', 'x'.repeat(31), 'x'.repeat(32), 'x'.repeat(500)])(
  'is held by one process, whatever its file contains (%j)',
  async text => {
    const path = join(directory, 'lock');
    if (text !== undefined) await writeFile(path, text);
    const lock = await lockDirectory(directory);
    expect(await readFile(path, 'utf8')).toMatch(/^[0-9a-f]{32}$/);
    await expect(lockDirectory(directory)).rejects.toMatchObject({ code: 'SITECAST_DATA_IN_USE' });
    await lock.release();
    await (await lockDirectory(directory)).release();
  },
);
