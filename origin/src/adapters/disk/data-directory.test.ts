import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'vitest';
import { testAdminTokenPlace } from '../../testing/conformance/admin-token-place.ts';
import { testChunks } from '../../testing/conformance/chunk-stores.ts';
import type { DataUnderTest } from '../../testing/conformance/data-under-test.ts';
import { testFileStaging } from '../../testing/conformance/file-staging.ts';
import { testKeyStore } from '../../testing/conformance/key-store.ts';
import { testRepositoryStore } from '../../testing/conformance/repository-store.ts';
import { testLog } from '../../testing/origin.ts';
import { TestClock, temporaryDirectory } from '../../testing/setup.ts';
import { DiskAdminToken } from './admin-token.ts';
import { fileOf } from './layout.ts';
import { testDisk } from './testing/test-disk.ts';

/** Two origins on one directory, as they may overlap for a moment. */
async function open(): Promise<DataUnderTest> {
  const directory = temporaryDirectory();
  const clock = new TestClock();
  // Files get the time of the system clock.
  clock.nowMs = Date.now();
  const restart = () =>
    testDisk(directory.path).openData({ maxStagedBytes: 2 ** 20, now: clock.now, log: testLog() });
  return {
    one: await restart(),
    other: await restart(),
    clock,
    restart,
    spoil: async file => writeFileSync(join(directory.path, fileOf(file)), 'spoilt'),
    close: directory.remove,
  };
}

describe('the repository on a disk', () => {
  testRepositoryStore(it, open);
});
describe('chunks on a disk', () => {
  testChunks(it, open);
});
describe('staged files on a disk', () => {
  testFileStaging(it, open);
});
describe("the first admin's token on a disk", () => {
  testAdminTokenPlace(it, async () => {
    const directory = temporaryDirectory();
    return {
      one: new DiskAdminToken(directory.path),
      other: new DiskAdminToken(directory.path),
      find: async where => readFileSync(where, 'utf8'),
      close: directory.remove,
    };
  });
});
describe('keys on a disk', () => {
  testKeyStore(it, open);
});
