import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readPrivateFile } from '../signing/index.ts';
import { createFleetKeyFile, MAX_FLEET_KEY_FILE_BYTES, requireFleetKey } from './fleet-key.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-fleet-key-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

it('creates a key that its owner alone can read, never over another, and reads it back', async () => {
  const path = join(directory, 'fleet.key');
  await createFleetKeyFile(path);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const text = await readFile(path, 'utf8');
  expect(Buffer.from(await requireFleetKey(path)).toString('hex')).toBe(text.trim());
  await expect(createFleetKeyFile(path)).rejects.toMatchObject({ code: 'SITECAST_KEY_EXISTS' });
  expect(await readFile(path, 'utf8')).toBe(text);
});

it('refuses a key that group or others may read, and a file without a key', async () => {
  const path = join(directory, 'fleet.key');
  await createFleetKeyFile(path);
  for (const mode of [0o640, 0o604, 0o620]) {
    await chmod(path, mode);
    await expect(requireFleetKey(path)).rejects.toMatchObject({ code: 'SITECAST_KEY_PERMISSIONS' });
  }
  await writeFile(path, 'x'.repeat(MAX_FLEET_KEY_FILE_BYTES));
  await chmod(path, 0o600);
  await expect(requireFleetKey(path)).rejects.toMatchObject({ code: 'SITECAST_FLEET_KEY_INVALID' });
  await writeFile(path, 'x'.repeat(MAX_FLEET_KEY_FILE_BYTES + 1));
  await expect(requireFleetKey(path)).rejects.toMatchObject({ code: 'SITECAST_FILE_TOO_LARGE' });
  await expect(requireFleetKey(undefined)).rejects.toMatchObject({ code: 'SITECAST_FLEET_KEY_MISSING' });
});

it('accepts a secret from systemd, but from its credentials directory only', async () => {
  const path = join(directory, 'fleet.key');
  await writeFile(path, 'secret', { mode: 0o440 });
  await chmod(path, 0o440);
  expect((await readPrivateFile(path, 100, directory)).toString()).toBe('secret');
  await expect(readPrivateFile(path, 100, join(directory, 'other'))).rejects.toMatchObject({
    code: 'SITECAST_KEY_PERMISSIONS',
  });
});
