import { afterEach, beforeEach, expect, it } from 'vitest';
import { temporaryDirectory } from '../../testing/setup.ts';
import { SyncDisk } from './sync-disk.ts';

let directory: ReturnType<typeof temporaryDirectory>;
beforeEach(() => {
  directory = temporaryDirectory();
});
afterEach(() => directory.remove());

it('tells the very time that a file was given', () => {
  const disk = new SyncDisk(directory.path);
  disk.write('file', Buffer.from('x'));
  for (let at = 0; at < 100; at += 1) {
    const nowMs = 1_796_119_999_000 + 7 * at;
    disk.touch('file', nowMs);
    expect(disk.modifiedMs('file')).toBe(nowMs);
  }
});
