import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { choicesFor, everything } from './choices.ts';
import { DiskHistory, digestOf, putDisk } from './disk-history.ts';
import { directoriesIn, filesIn, recordWrites, whyNoRecording } from './recorded-writes.ts';

const noRecording = whyNoRecording();
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sitecast-recorded-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** What a shell script does in the directory. The record is right: it leads to what is there. */
async function historyOf(script: string): Promise<DiskHistory> {
  const before = filesIn(directory);
  const history = new DiskHistory(
    before,
    await recordWrites(directory, ['sh', '-c', `cd ${directory} && ${script}`]),
  );
  const { files, directories } = history.after(history.length, everything);
  expect(files).toEqual(filesIn(directory));
  expect(directories.filter(Boolean).sort()).toEqual(directoriesIn(directory).sort());
  return history;
}

const textOf = (files: ReadonlyMap<string, Buffer>, path: string) => files.get(path)?.toString();

it.skipIf(noRecording !== undefined)(
  'shows that a file which is written in place is empty for a moment, and one that is renamed never',
  async () => {
    writeFileSync(join(directory, 'state'), 'old\n');
    const inPlace = await historyOf("sh -c 'echo new > state; echo more >> state'");
    const cuts = Array.from({ length: inPlace.length }, (_, at) => inPlace.after(at + 1, everything).files);
    expect(cuts.map(files => textOf(files, 'state'))).toEqual(['', 'new\n', 'new\n', 'new\nmore\n']);

    writeFileSync(join(directory, 'state'), 'old\n');
    const renamed = await historyOf('echo new > part && sync part && mv part state && sync .');
    const found = new Set<string | undefined>();
    for (let cut = 0; cut <= renamed.length; cut += 1)
      for (const choice of choicesFor(cut, { seed: 1, count: 20 }))
        found.add(textOf(renamed.after(cut, choice).files, 'state'));
    expect(found).toEqual(new Set(['old\n', 'new\n']));
  },
);

it.skipIf(noRecording !== undefined)(
  'follows directories, second names, positions, truncations and vectors of writes',
  async () => {
    mkdirSync(join(directory, 'there'));
    writeFileSync(join(directory, 'there/old'), 'old\n');
    const history = await historyOf(
      'mkdir $PWD/a $PWD/a/b && echo one > a/b/f && ln a/b/f a/g && mv a/b a/c && echo two >> a/c/f && rm a/g && mv a moved && ' +
        'printf 12345 > moved/n && truncate -s 3 moved/n && truncate -s 9 moved/n && printf x | dd of=moved/n bs=1 seek=1 conv=notrunc status=none && ' +
        'mkdir $PWD/gone && rmdir $PWD/gone && rm -r there && ' +
        `${process.execPath} -e "const fs=require('fs');const f=fs.openSync('v','w');fs.writevSync(f,[Buffer.from('ab'),Buffer.from('cd')]);fs.writeSync(f,'e')"`,
    );
    const { files, directories } = history.after(history.length, everything);
    expect(Object.fromEntries([...files].map(([path, bytes]) => [path, String(bytes)]))).toEqual({
      'moved/c/f': 'one\ntwo\n',
      'moved/n': '1x3\0\0\0\0\0\0',
      v: 'abcde',
    });
    expect(directories).toEqual(['', 'moved', 'moved/c']);
  },
);

it.skipIf(noRecording !== undefined)('refuses what it does not follow', async () => {
  await expect(historyOf('fallocate -l 100 f')).rejects.toThrow("fallocate on f isn't followed");
  await expect(historyOf('mkdir x')).rejects.toThrow("mkdir of a relative path isn't followed: /x");
  await expect(recordWrites(directory, ['false'])).rejects.toThrow('strace');
});

it('puts a disk on the disk', () => {
  const disk = { files: new Map([['a/b', Buffer.from('x')]]), directories: ['', 'a', 'a/c'] };
  putDisk(directory, disk);
  const found = { files: filesIn(directory), directories: ['', ...directoriesIn(directory)] };
  expect(digestOf(found)).toBe(digestOf(disk));
  expect(digestOf({ ...disk, directories: ['', 'a'] })).not.toBe(digestOf(disk));
});
