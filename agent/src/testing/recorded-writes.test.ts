import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { afterChanges, filesIn, recordWrites, whyNoRecording } from './recorded-writes.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sitecast-recorded-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

it.skipIf(whyNoRecording() !== undefined)(
  'shows that a file which is written in place is empty for a moment, and one that is renamed never',
  () => {
    writeFileSync(join(directory, 'state'), 'old\n');
    const before = filesIn(directory);
    const contents = (script: string) => {
      const changes = recordWrites(directory, ['sh', '-c', `cd ${directory} && ${script}`]);
      expect(afterChanges(before, changes)).toEqual(filesIn(directory));
      const cuts = changes.map((_change, at) => afterChanges(before, changes.slice(0, at + 1)));
      return cuts.map(files => files.get('state')?.toString());
    };
    expect(contents("sh -c 'echo new > state; echo more >> state'")).toEqual([
      '',
      'new\n',
      'new\n',
      'new\nmore\n',
    ]);
    writeFileSync(join(directory, 'state'), 'old\n');
    expect(new Set(contents('echo new > part && sync part && mv part state && sync .'))).toEqual(
      new Set(['old\n', 'new\n']),
    );
  },
);
