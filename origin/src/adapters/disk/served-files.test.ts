import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { chunkIdOf, compressFrame } from '@sitecast/shared/content';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FileRef, OpenFile } from '../../repository/repository-store.ts';
import { hexOf } from '../../testing/operator.ts';
import { randomChunks, TestClock, temporaryDirectory } from '../../testing/setup.ts';
import { DiskFiles } from './disk-files.ts';
import { fileOf } from './layout.ts';
import { HotFiles, MAX_HOT_BYTES, VerifiedFiles } from './served-files.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let clock: TestClock;
/** Opens files and counts the calls. */
let inner: { open: DiskFiles['open'] };
let opened: number;
beforeEach(() => {
  directory = temporaryDirectory();
  clock = new TestClock();
  const disk = new DiskFiles(directory.path);
  opened = 0;
  inner = {
    open: path => {
      opened += 1;
      return disk.open(path);
    },
  };
});
afterEach(() => directory.remove());

const at = (ref: FileRef) => join(directory.path, fileOf(ref));

function write(ref: FileRef, bytes: string | Buffer): void {
  mkdirSync(dirname(at(ref)), { recursive: true });
  // The origin writes in the same way: to another name, then it renames.
  writeFileSync(`${at(ref)}.new`, bytes);
  renameSync(`${at(ref)}.new`, at(ref));
}

describe('published files that are verified before they are sent', () => {
  let verified: VerifiedFiles;
  beforeEach(() => {
    verified = new VerifiedFiles(inner, clock.now);
  });

  /** @returns the bytes of the file, or why there are none */
  async function read(ref: FileRef): Promise<string> {
    const file = await verified.open(ref);
    return typeof file === 'string' ? file : (await file.read(0, file.lengthBytes)).toString('base64');
  }

  const [chunk = Buffer.alloc(0)] = randomChunks(1);
  const frame = compressFrame(chunk);
  const chunkRef: FileRef = { kind: 'chunk', id: chunkIdOf(chunk) };
  const text = Buffer.from('{"a":1}\n');
  const targetRef: FileRef = { kind: 'target', name: 'products/camera.json', sha256: hexOf(text) };
  const rootRef: FileRef = { kind: 'metadata', role: 'root', version: 1 };
  const DAY_MS = 24 * 3_600_000;

  it.each([
    ['chunk', chunkRef, frame],
    ['target file', targetRef, text],
  ])(
    'include a %s, which is read once, again when it has changed, and after a day',
    async (_what, ref, bytes) => {
      write(ref, bytes);
      const right = bytes.toString('base64');
      expect(await Promise.all([read(ref), read(ref)])).toEqual([right, right]);
      opened = 0;
      expect(await read(ref)).toBe(right);
      expect(opened).toBe(1);
      write(ref, bytes);
      opened = 0;
      expect(await read(ref)).toBe(right);
      expect(opened).toBe(3);
      clock.nowMs += DAY_MS;
      opened = 0;
      expect(await read(ref)).toBe(right);
      expect(opened).toBe(3);
    },
  );

  it.each([
    ['chunk', chunkRef, frame],
    ['target file', targetRef, text],
    ['root', rootRef, Buffer.alloc(0)],
  ])(
    'never include a wrong %s, which is reported once; the right one is accepted',
    async (_what, ref, bytes) => {
      write(ref, 'wrong');
      const reported = await Promise.all([read(ref), read(ref)]);
      expect(reported.sort()).toEqual(['damaged', 'missing']);
      expect(await read(ref)).toBe('missing');
      write(ref, '');
      expect(await read(ref)).toBe('damaged');
      expect(await read(ref)).toBe('missing');
      rmSync(at(ref));
      expect(await read(ref)).toBe('missing');
      if (bytes.length === 0) return;
      write(ref, bytes);
      expect(await read(ref)).toBe(bytes.toString('base64'));
    },
  );

  it('include metadata without a known hash, as it is', async () => {
    const ref: FileRef = { kind: 'metadata', role: 'snapshot', version: 3 };
    write(ref, 'anything');
    expect(await read(ref)).toBe(Buffer.from('anything').toString('base64'));
    expect(opened).toBe(1);
  });
});

describe('a cache of published files', () => {
  let hot: HotFiles;
  beforeEach(() => {
    hot = new HotFiles(new VerifiedFiles(inner, clock.now), clock.now);
  });

  // Snapshots aren't verified here, so any bytes will do.
  const ref = (version: number): FileRef => ({ kind: 'metadata', role: 'snapshot', version });

  async function open(version: number): Promise<OpenFile | undefined> {
    const file = await hot.open(ref(version));
    return typeof file === 'string' ? undefined : file;
  }

  async function read(version: number, start = 0, lengthBytes?: number): Promise<string | undefined> {
    const file = await open(version);
    return file && String(await file.read(start, lengthBytes ?? file.lengthBytes));
  }

  it('returns what it has read whole, and parts of it, without the disk', async () => {
    write(ref(1), 'abcdef');
    expect(await read(1, 1, 2)).toBe('bc');
    expect(await read(1)).toBe('abcdef');
    rmSync(at(ref(1)));
    expect(await read(1)).toBe('abcdef');
    expect(await read(1, 1, 2)).toBe('bc');
    const streamed = await open(1);
    expect(await new Response(streamed?.stream(2, 3)).text()).toBe('cde');
  });

  it('keeps nothing that was read in part, is missing, or is no file', async () => {
    write(ref(1), 'abcdef');
    mkdirSync(at(ref(2)));
    await read(1, 0, 3);
    rmSync(at(ref(1)));
    expect(await read(1)).toBeUndefined();
    expect(await read(2)).toBeUndefined();
    write(ref(1), 'new');
    expect(await read(1)).toBe('new');
  });

  it('reads the disk again after ten minutes', async () => {
    write(ref(1), 'spoilt');
    await read(1);
    write(ref(1), 'right!');
    clock.nowMs += 10 * 60_000 - 1;
    expect(await read(1)).toBe('spoilt');
    clock.nowMs += 1;
    expect(await read(1)).toBe('right!');
  });

  it('drops the least recently used when it is full', async () => {
    const piece = Buffer.alloc(1024 * 1024);
    const versions = Array.from({ length: MAX_HOT_BYTES / piece.length + 1 }, (_, number) => number + 1);
    for (const version of versions.slice(0, -1)) {
      write(ref(version), piece);
      await read(version);
    }
    await read(1);
    write(ref(versions.length), piece);
    await read(versions.length);
    for (const version of versions) rmSync(at(ref(version)));
    const kept = [];
    for (const version of versions) if ((await open(version)) !== undefined) kept.push(version);
    expect(kept).toEqual(versions.filter(version => version !== 2));
  });
});
