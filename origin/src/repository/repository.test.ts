import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DiskFiles } from '../adapters/disk-files.ts';
import { SyncDisk } from '../adapters/sync-disk.ts';
import { imageOf } from '../testing/operator.ts';
import { initialisedOrigin, randomChunks, temporaryDirectory } from '../testing/setup.ts';

let directory: ReturnType<typeof temporaryDirectory>;
beforeEach(() => {
  directory = temporaryDirectory();
});
afterEach(() => directory.remove());

const begin = () =>
  initialisedOrigin({ files: new DiskFiles(directory.path), syncFiles: new SyncDisk(directory.path) });

it('publishes', async () => {
  const { operator } = await begin();
  const image = imageOf(...randomChunks(3));
  expect(await operator.publish('camera', image)).toMatchObject({ httpStatus: 200 });
  console.log(await readdir(directory.path, { recursive: true }));
});
