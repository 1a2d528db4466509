import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { diskFull } from './index.ts';

const directory = mkdtempSync(join(tmpdir(), 'sitecast-room-'));
afterAll(() => rmSync(directory, { recursive: true }));

const systemError = (code: string, errno: number) =>
  Object.assign(new Error(`${code}: write`), { code, errno, syscall: 'write' });

it('says where the disk is full, how much is free, and how much is needed', () => {
  const error = diskFull('origin', directory, {
    cause: systemError('ENOSPC', -28),
    neededBytes: 5 * 2 ** 20,
    what: 'a copy of camera 1.0.0',
  });
  expect(error.message).toMatch(
    /^the disk of the origin is full: [\d.]+ [KMGT]?i?B are free on the file system of .*sitecast-room-.*; a copy of camera 1\.0\.0 takes 5\.0 MiB$/,
  );
  expect(error).toMatchObject({
    code: 'SITECAST_NO_SPACE',
    kind: 'noSpace',
    hint: expect.stringContaining(`Make room on the file system of ${directory}`),
    data: { path: directory, freeBytes: expect.any(Number), neededBytes: 5 * 2 ** 20 },
  });
});

it('tells no free bytes where a quota is used up, and none of a directory that has gone', () => {
  for (const cause of [systemError('EDQUOT', -122), new Error('IO error: Disk quota exceeded')])
    expect(diskFull('gateway', directory, { cause }).message).toBe(
      `the disk of the gateway is full: the quota for ${directory} is used up`,
    );
  const gone = diskFull('gateway', join(directory, 'gone'));
  expect(gone.message).toContain('gone has no space left');
  expect(gone.data).not.toHaveProperty('freeBytes');
});
