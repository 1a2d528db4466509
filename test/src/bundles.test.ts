import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const TOP = fileURLToPath(new URL('../../', import.meta.url));

const filesOf = async (name: string): Promise<string[]> =>
  (await readdir(join(TOP, name, 'bundle'))).filter(file => file.endsWith('.js'));

const textOf = (name: string, file: string): Promise<string> =>
  readFile(join(TOP, name, 'bundle', file), 'utf8');

it.each([
  ['agent', ['apply-worker']],
  ['origin', ['chunk-thread', 'frame-worker', 'maker-process']],
])('the bundle of %s has all threads and processes that it starts', async (name, known) => {
  const files = await filesOf(name);
  const texts = await Promise.all(files.map(file => textOf(name, file)));
  const started = texts.flatMap(text =>
    [...text.matchAll(/builtModule\(import\.meta\.url, ["']([\w-]+)["']\)/g)].map(([, found]) => found),
  );
  expect(started).toEqual(expect.arrayContaining(known));
  expect(started.filter(found => !files.includes(`${found}.js`))).toEqual([]);
});

it.each(['agent', 'gateway', 'origin'])(
  'the bundle of %s has no character that takes two bytes in memory',
  async name => {
    for (const file of await filesOf(name))
      expect(/.{0,40}[^\0-\xff].{0,40}/.exec(await textOf(name, file))?.[0]).toBeUndefined();
  },
);

it('the Latin-1 bundle says the same: letters beyond are escaped, not lost', async () => {
  const texts = await Promise.all((await filesOf('agent')).map(file => textOf('agent', file)));
  expect(texts.some(text => text.includes('12D3KooW\\u2026'))).toBe(true);
});

it.each(['agent', 'gateway', 'origin'])(
  'the bundle of %s has no import of node:http, which on Node 26 would load undici as well',
  async name => {
    for (const file of await filesOf(name))
      expect(/^import .*["'](?:node:)?http["'];?$/m.exec(await textOf(name, file))?.[0]).toBeUndefined();
  },
);

it("an agent loads no undici. (Gateway and origin do: hono's requests and answers are its classes.)", async () => {
  const told = "process.on('exit', () => process._rawDebug(process.moduleLoadList.join()))";
  const watch = `data:text/javascript,${encodeURIComponent(told)}`;
  const stub = join(TOP, 'agent/bin/sitecast-agent.js');
  const { stderr } = await promisify(execFile)(process.execPath, ['--import', watch, stub, '--help']);
  expect(stderr).toMatch(/NativeModule http\b/);
  expect(stderr).not.toContain('undici');
});
