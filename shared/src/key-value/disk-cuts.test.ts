import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import {
  type CutDisk,
  cutAll,
  filesIn,
  marksBefore,
  putDisk,
  recordWrites,
  scratchDirectory,
  whyNoRecording,
} from '../testing/disk/index.ts';
import { openLevelStore } from './open.ts';

const PROCESS = fileURLToPath(new URL('../../dist/key-value/testing/recorded-store.js', import.meta.url));
const noRecording = whyNoRecording();
const seed = Number(process.env.SITECAST_SEED ?? 1);

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(scratchDirectory(), 'sitecast-store-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

const openAt = (path: string) =>
  openLevelStore({
    path: join(path, 'state'),
    witnessPath: join(path, 'state.witness'),
    owner: { name: 'test', dataDirectory: path, cure: '' },
  });

/** Opens what a cut left, twice. @returns what is wrong */
async function openCut(disk: CutDisk, acknowledged: number): Promise<string | undefined> {
  const path = mkdtempSync(join(directory, 'cut-'));
  try {
    putDisk(path, disk);
    for (let opening = 1; opening <= 2; opening += 1) {
      const store = await openAt(path);
      try {
        for (let at = 0; at < acknowledged; at += 1)
          if ((await store.get(`k${at}`)) === undefined) return `commit ${at} of ${acknowledged} is lost`;
        await store.commit([{ key: 'later', value: opening }]);
      } finally {
        await store.close();
      }
    }
    return undefined;
  } catch (error) {
    return String(error);
  } finally {
    rmSync(path, { recursive: true });
  }
}

it.skipIf(noRecording !== undefined)(
  'opens after a power cut between any two of its changes, with all that was committed, whatever the disk has kept',
  async () => {
    const recorded = join(directory, 'recorded');
    putDisk(recorded, { files: new Map(), directories: [''] });
    const changes = await recordWrites(recorded, [process.execPath, PROCESS, recorded]);
    const cutAt = (options: { choices: number; ignoresSyncs?: boolean }) =>
      cutAll({ before: new Map(), changes }, { seed, ...options }, (disk, cut) =>
        openCut(disk, marksBefore(changes, cut).length),
      );
    const { cuts, wrong } = await cutAt({ choices: 8 });
    expect(wrong).toEqual([]);
    expect(cuts).toBeGreaterThan(1000);
    const { wrong: found } = await cutAt({ choices: 2, ignoresSyncs: true });
    expect(found).toContainEqual(expect.stringContaining('is lost'));
  },
);

it('begins anew where the first manifest never reached the disk', async () => {
  for (const lengthBytes of [0, 50]) {
    const path = mkdtempSync(join(directory, 'unborn-'));
    const files = new Map([
      ['state/CURRENT', Buffer.from('MANIFEST-000001\n')],
      ['state/MANIFEST-000001', Buffer.alloc(lengthBytes)],
      ['state/000003.log', Buffer.alloc(0)],
    ]);
    putDisk(path, { files, directories: ['', 'state'] });
    const store = await openAt(path);
    await store.commit([{ key: 'a', value: 1 }]);
    await store.close();
    expect([...filesIn(join(path, 'state')).keys()]).toContain('MANIFEST-000002');
  }
});

it('leaves alone, and refuses, what may have held something', async () => {
  const store = await openAt(directory);
  await store.commit([{ key: 'a', value: 1 }]);
  await store.close();
  const state = join(directory, 'state');
  const manifest = readdirSync(state).find(name => name.startsWith('MANIFEST')) ?? '';
  truncateSync(join(state, manifest), 0);
  writeFileSync(join(state, 'MANIFEST-000001'), '');
  writeFileSync(join(state, 'CURRENT'), 'MANIFEST-000001\n');
  await expect(openAt(directory)).rejects.toMatchObject({ code: 'SITECAST_STATE_DAMAGED' });
  // An earlier version had no witness.
  rmSync(join(directory, 'state.witness'));
  await expect(openAt(directory)).rejects.toMatchObject({ code: 'SITECAST_STATE_DAMAGED' });
  expect(
    readdirSync(state).filter(name => name.endsWith('.log') && existsSync(join(state, name))),
  ).toHaveLength(1);
});
