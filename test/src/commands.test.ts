import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { SITECAST_VERSION } from '@sitecast/shared/version';
import { expect, it } from 'vitest';
import { Testbed } from './testbed/testbed.ts';
import { invitation } from './demo/narrator.ts';

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

it('reports in one line, and by its exit code, that its output could not be written', async () => {
  const bin = fileURLToPath(new URL(commands.sitecast, import.meta.url));
  const { stderr } = await run('bash', ['-c', '"$0" --help > /dev/full; echo "code $?" >&2', bin]);
  expect(stderr).toMatch(/^the output can't be written: .*\ncode 1\n$/);
});

it('the lines that the demo prints run the checkout’s own commands, from any directory', async () => {
  const testbed = await Testbed.open();
  try {
    const lines = invitation({ testbed, devices: [], originUrl: 'http://127.0.0.1:1' });
    expect(lines.filter(line => !/^(cd|curl) /.test(line))).toHaveLength(4);
    for (const line of lines.filter(each => !/^(cd|curl) /.test(each))) {
      const [, program = '', words = ''] = /^('.*?'|\S+) (.*)$/.exec(line) ?? [];
      expect(isAbsolute(program.replaceAll("'", ''))).toBe(true);
      const { stdout } = await run('bash', ['-c', `cd / && ${program} ${words} --help`]);
      expect(stdout).toMatch(/^Usage: sitecast/);
    }
  } finally {
    await testbed.close();
  }
});

it('no printed or documented line makes anyone fetch a command from the registry', () => {
  const top = new URL('../../', import.meta.url);
  for (const name of ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'docs/OPERATIONS.md'])
    expect(readFileSync(new URL(name, top), 'utf8')).not.toMatch(/npx\b(?!`)|npm exec/);
  for (const name of ['.', 'shared', 'origin', 'gateway', 'agent', 'test']) {
    const described = JSON.parse(readFileSync(new URL(`${name}/package.json`, top), 'utf8'));
    expect(described).toMatchObject({ name: expect.stringMatching(/^@sitecast\//), private: true });
  }
});
