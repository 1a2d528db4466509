import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { SITECAST_VERSION } from '@sitecast/shared/version';
import { expect, it } from 'vitest';

const run = promisify(execFile);
const commands = {
  sitecast: '../../origin/bin/sitecast.js',
  'sitecast-origin': '../../origin/bin/sitecast-origin.js',
  'sitecast-gateway': '../../gateway/bin/sitecast-gateway.js',
  'sitecast-agent': '../../agent/bin/sitecast-agent.js',
};

it.each(Object.entries(commands))('%s, as installed, answers --help and --version', async (name, path) => {
  const bin = fileURLToPath(new URL(path, import.meta.url));
  expect((await run(bin, ['--help'])).stdout).toContain(`Usage: ${name} `);
  expect((await run(bin, ['--version'])).stdout).toBe(`${name} ${SITECAST_VERSION}\n`);
});

it('an unknown command is refused with exit code 2, without a stack trace', async () => {
  const bin = fileURLToPath(new URL(commands.sitecast, import.meta.url));
  const refusal = await run(bin, ['frobnicate', '--help-me']).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: 2 });
  expect(String(refusal)).not.toMatch(/\n\s+at /);
});

it.each(Object.entries(commands))('%s ends quietly when its reader has gone', async (_, path) => {
  const bin = fileURLToPath(new URL(path, import.meta.url));
  // The reader's end is closed before anything is written to it.
  const piped = '{ sleep 0.3; "$0" --help; echo "code $?" >&2; } | true';
  const { stderr } = await run('bash', ['-c', piped, bin]);
  expect(stderr).toBe('code 0\n');
});

it('says in one line, and by its exit code, that its output could not be written', async () => {
  const bin = fileURLToPath(new URL(commands.sitecast, import.meta.url));
  const { stderr } = await run('bash', ['-c', '"$0" --help > /dev/full; echo "code $?" >&2', bin]);
  expect(stderr).toMatch(/^the output can't be written: .*\ncode 1\n$/);
});
