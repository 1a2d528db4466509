import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { type CommandResult, startSitecast } from './testing/command.ts';
import { openTestOrigin, type TestOrigin } from './testing/origin.ts';
import { temporaryDirectory } from './testing/setup.ts';

const DRAFT = 'first.draft.json';
const home = process.cwd();
let directory: ReturnType<typeof temporaryDirectory>;
let origin: TestOrigin;
let server: RunningServer;

beforeEach(async () => {
  directory = temporaryDirectory();
  const data = join(directory.path, 'origin');
  origin = await openTestOrigin({ ...testDisk(data), now: Date.now });
  server = await listen(origin.app, { host: '127.0.0.1', port: 0 });
});
afterEach(async () => {
  process.chdir(home);
  await server.close(0);
  await origin.close();
  await directory.remove();
});

/** Runs a line in one person's folder. */
async function type(line: string, folder: string): Promise<CommandResult> {
  const path = join(directory.path, folder);
  await mkdir(path, { recursive: true });
  process.chdir(path);
  return await startSitecast(line.split(' ').slice(1)).done;
}

async function typed(line: string, folder: string): Promise<string> {
  const { exitCode, stdout, stderr } = await type(line, folder);
  expect({ line, exitCode, stderr }).toMatchObject({ exitCode: 0 });
  return stdout + stderr;
}

/** The commands that a help text shows after a line, without the remarks beside them. */
function linesOf(help: string, after: string): string[] {
  const block = help.slice(help.indexOf(after)).split('\n\n')[0] ?? '';
  return block
    .split('\n')
    .filter(line => line.startsWith('  sitecast '))
    .map(line => line.trim().split('  ')[0] ?? '');
}

const copyKeys = async (from: string): Promise<void> => {
  const keys = join(directory.path, from, 'keys');
  const names = (await readdir(keys)).filter(name => name.endsWith('.pub'));
  await mkdir(join(directory.path, 'desk', 'keys'), { recursive: true });
  for (const name of names) await copyFile(join(keys, name), join(directory.path, 'desk', 'keys', name));
};

it('two of three key holders found a repository by the exact lines of `sitecast init --help`', async () => {
  const help = await typed('sitecast init --help', 'desk');
  const [create = '', init = '', sign = '', submit = '', ...more] = linesOf(help, 'two have to sign:');
  expect(more).toEqual([]);
  for (const [name, role] of Object.entries({ alice: 'root', bob: 'root', carol: 'root', dave: 'release' })) {
    await typed(`${create.replace('root', role).replace('alice', name)} --no-passphrase`, name);
    await copyKeys(name);
  }
  await writeFile(join(directory.path, 'desk', 'admin.token'), origin.adminToken);
  await typed(init.replace('https://updates.example.com', server.url), 'desk');

  const draft = join(directory.path, 'desk', DRAFT);
  const signed = async (name: string): Promise<string> => {
    await copyFile(draft, join(directory.path, name, DRAFT));
    const said = await typed(sign, name);
    await copyFile(join(directory.path, name, DRAFT), draft);
    return said;
  };
  expect(await signed('alice')).toMatch(/signed with [^]*root: 1 of 2 [^]*it is not complete/);
  expect(await signed('alice')).toMatch(/had signed it already[^]*root: 1 of 2 [^]*it is not complete/);
  await signed('dave');
  const early = await type(submit, 'desk');
  expect(early).toMatchObject({
    exitCode: 3,
    stderr: expect.stringContaining('SITECAST_SIGNATURES_MISSING'),
  });
  expect(await signed('carol')).toContain(`it is complete; submit it with: sitecast release submit ${DRAFT}`);
  // A key holder who comes too late isn't told that signatures are missing.
  const late = await signed('bob');
  expect(late).toContain('it is complete');
  expect(late).not.toContain('no key');

  expect(await typed(submit, 'desk')).toContain('root.json: start devices and gateways with');
  const root = await readFile(join(directory.path, 'desk', 'root.json'), 'utf8');
  expect(JSON.parse(root).signatures).toHaveLength(2);
  expect(await typed('sitecast status', 'desk')).toContain('timestamp');
  // The answer was lost. The repeated command finds the repository and the file.
  await rm(join(directory.path, 'desk', 'root.json'));
  for (let times = 0; times < 2; times += 1)
    expect(await typed(submit, 'desk')).toContain('published already');
  expect(await readFile(join(directory.path, 'desk', 'root.json'), 'utf8')).toBe(root);
});

it('a draft that no present key can sign is reported as such, and a complete one as complete', async () => {
  for (const role of ['root', 'release']) await typed(`sitecast keys create ${role} --no-passphrase`, 'desk');
  await writeFile(join(directory.path, 'desk', 'admin.token'), origin.adminToken);
  const init = `sitecast init --origin ${server.url} --token-file admin.token --draft ${DRAFT}`;
  expect(await typed(init, 'desk')).toContain(`submit it with: sitecast release submit ${DRAFT}`);
  expect(JSON.parse((await type(`sitecast release sign ${DRAFT} --json`, 'desk')).stdout)).toMatchObject({
    signedBy: [],
    complete: true,
  });
  await mkdir(join(directory.path, 'desk', 'empty'));
  expect(await typed(`sitecast release sign ${DRAFT} --keys empty`, 'desk')).toContain('it is complete');
  await typed('sitecast keys create release --no-passphrase --out others', 'desk');
  const draft = JSON.parse(await readFile(join(directory.path, 'desk', DRAFT), 'utf8'));
  const targets = JSON.stringify({ ...JSON.parse(draft.targets), signatures: [] });
  await writeFile(join(directory.path, 'desk', DRAFT), JSON.stringify({ ...draft, targets }));
  expect(await type(`sitecast release sign ${DRAFT} --keys others`, 'desk')).toMatchObject({
    exitCode: 3,
    stderr: expect.stringContaining('SITECAST_KEYS_MISSING'),
  });
});
