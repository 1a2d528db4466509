import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const TOP = fileURLToPath(new URL('../../', import.meta.url));

it.each([
  ['agent', ['apply-worker']],
  ['origin', ['chunk-thread', 'frame-worker', 'maker-process']],
])('the bundle of %s has all threads and processes that it starts', async (name, known) => {
  const folder = join(TOP, name, 'bundle');
  const files = (await readdir(folder)).filter(file => file.endsWith('.js'));
  const texts = await Promise.all(files.map(file => readFile(join(folder, file), 'utf8')));
  const started = texts.flatMap(text =>
    [...text.matchAll(/builtModule\(import\.meta\.url, ["']([\w-]+)["']\)/g)].map(([, found]) => found),
  );
  expect(started).toEqual(expect.arrayContaining(known));
  expect(started.filter(found => !files.includes(`${found}.js`))).toEqual([]);
});
