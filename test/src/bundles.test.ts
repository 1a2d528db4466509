import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const TOP = fileURLToPath(new URL('../../', import.meta.url));

it.each(['agent', 'origin'])('the bundle of %s has all threads that it starts', async name => {
  const folder = join(TOP, name, 'bundle');
  const files = (await readdir(folder)).filter(file => file.endsWith('.js'));
  const texts = await Promise.all(files.map(file => readFile(join(folder, file), 'utf8')));
  const started = texts.flatMap(text =>
    [...text.matchAll(/new URL\(["']\.\/([\w-]+\.js)["'],/g)].map(([, file]) => file),
  );
  expect(started.length).toBeGreaterThan(0);
  expect(started.filter(file => file !== undefined && !files.includes(file))).toEqual([]);
});
