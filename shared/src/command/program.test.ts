import { readFileSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { limitSettings } from './config-file.ts';
import { runProgram, SettingsCommand } from './program.ts';
import { formatDurationMs, parseBoundedInteger, parseDurationMs } from './values.ts';

afterEach(() => {
  delete process.env.SITECAST_PORT_NUMBER;
});

async function run(args: string[], act: (options: Record<string, unknown>) => void) {
  const program = new SettingsCommand('sitecast-thing');
  program
    .command('serve')
    .option('--port-number <n>', 'where to listen', parseBoundedInteger(1, 65535), 1)
    .option('--name <name>')
    .option('--version <v>')
    .option('--json')
    .action((options: Record<string, unknown>) => act(options));
  program.command('stop').option('--grace <s>');
  let out = '';
  let err = '';
  const streams = { out: (text: string) => (out += text), err: (text: string) => (err += text) };
  return { exitCode: await runProgram(program, args, { streams }), out, err };
}

async function configFile(text: string): Promise<string> {
  const path = join(await mkdtemp(join(tmpdir(), 'sitecast-config-')), 'c.yaml');
  await writeFile(path, text);
  return path;
}

async function portFrom(args: string[]): Promise<unknown> {
  let port: unknown;
  const result = await run(args, options => (port = options.portNumber));
  expect(result).toMatchObject({ exitCode: 0, err: '' });
  return port;
}

it('prefers the environment to the configuration file, and a flag to both', async () => {
  const config = await configFile('port-number: 2\nname: a\ngrace: 5\n');
  expect(await portFrom(['serve'])).toBe(1);
  expect(await portFrom(['serve', '--config', config])).toBe(2);
  process.env.SITECAST_PORT_NUMBER = '3';
  expect(await portFrom(['serve', '--config', config])).toBe(3);
  expect(await portFrom(['serve', '--config', config, '--port-number', '4'])).toBe(4);
});

it.each([
  ['an unknown setting', 'port-nubmer: 2', "unknown setting 'port-nubmer'"],
  ['a value out of bounds', 'port-number: 70000', 'from 1 to 65535'],
  ['a value of the wrong shape', 'port-number: [1, 2]', 'takes one value'],
  ['something that is no list of settings', '- a', 'expected lines of'],
  ['broken YAML', 'a: "', 'c.yaml'],
])('refuses a configuration file with %s', async (_what, text, message) => {
  const { exitCode, err } = await run(['serve', '--config', await configFile(text)], () => {});
  expect(exitCode).toBe(2);
  expect(err).toContain(message);
  expect(err).not.toContain('    at ');
});

it('allows a subcommand a --version of its own', async () => {
  let version: unknown;
  await run(['serve', '--version', '2.0.0'], options => (version = options.version));
  expect(version).toBe('2.0.0');
});

it('describes in plain words which path the system refused, and why', async () => {
  const { exitCode, err } = await run(['serve', '--config', '/nowhere/c.yaml'], () => {});
  expect(exitCode).toBe(2);
  expect(err).toBe('sitecast-thing: /nowhere/c.yaml: no such file or directory (SITECAST_SYSTEM_ENOENT)\n');
});

it('prints an error as one message with its code and hint, or as JSON, and exits by its kind', async () => {
  const fail = () => {
    throw new SitecastError('unreachable', 'SITECAST_ORIGIN_UNREACHABLE', 'no answer', {
      hint: 'is it running?',
    });
  };
  const plain = await run(['serve'], fail);
  expect(plain).toMatchObject({
    exitCode: 4,
    err: 'sitecast-thing: no answer (SITECAST_ORIGIN_UNREACHABLE)\n  is it running?\n',
  });
  const json = await run(['serve', '--json'], fail);
  expect(JSON.parse(json.err)).toEqual({
    error: { code: 'SITECAST_ORIGIN_UNREACHABLE', message: 'no answer', hint: 'is it running?' },
  });
});

it.each<[string[], string, string]>([
  [[], 'SITECAST_USAGE_COMMAND_MISSING', 'sitecast-thing takes a command'],
  [['sreve'], 'SITECAST_USAGE_COMMAND_UNKNOWN', "unknown command 'sreve'"],
  [['serve', '--prot-number', '1'], 'SITECAST_USAGE_OPTION_UNKNOWN', "unknown option '--prot-number'"],
  [
    ['serve', '--port-numbr', '1'],
    'SITECAST_USAGE_OPTION_UNKNOWN',
    "unknown option '--port-numbr' (Did you mean --port-number?)",
  ],
  [['serve', '--name'], 'SITECAST_USAGE_VALUE_MISSING', "option '--name <name>' argument missing"],
  [['serve', '--port-number', 'x'], 'SITECAST_USAGE_VALUE_INVALID', 'a whole number from 1 to 65535'],
  [['serve', 'x'], 'SITECAST_USAGE_ARGUMENT_EXCESS', 'too many arguments'],
])('reports wrong usage with a code and a hint: %j', async (args, code, message) => {
  const plain = await run(args, () => {});
  expect(plain).toMatchObject({ exitCode: 2, out: '' });
  expect(plain.err).toContain(`(${code})`);
  expect(plain.err).toContain(message);
  expect(plain.err).toMatch(/ sitecast-thing( serve)? --help shows what it takes\n$/);
  const [command, ...rest] = args;
  if (command === undefined) return;
  const json = await run([command, '--json', ...rest], () => {});
  expect(json.exitCode).toBe(2);
  expect(JSON.parse(json.err)).toMatchObject({
    error: { code, message: expect.stringContaining(message), data: { command: expect.any(String) } },
  });
});

it('says with --json what an error concerns, and reports an unusable file as wrong input', async () => {
  const fail = () => {
    throw new SitecastError('conflict', 'SITECAST_X', 'no', { data: { rollout: 'r1' } });
  };
  expect(JSON.parse((await run(['serve', '--json'], fail)).err)).toEqual({
    error: { code: 'SITECAST_X', message: 'no', data: { rollout: 'r1' } },
  });
  const read = (path: string) => () => {
    readFileSync(path);
  };
  expect(await run(['serve', '--name', '/nowhere/a'], read('/nowhere/a'))).toMatchObject({ exitCode: 2 });
  expect(await run(['serve', '--name', '/nowhere/a'], read('/elsewhere'))).toMatchObject({ exitCode: 1 });
});

it('marks every line of an error that others have sent, so that none looks like our own', async () => {
  const fail = () => {
    throw new SitecastError('conflict', 'SITECAST_X', 'no\u001b[2J\nsitecast: all is well\u200b', {
      hint: 'a\nb',
    });
  };
  const { err } = await run(['serve'], fail);
  expect(err).toBe('sitecast-thing: no\ufffd[2J\n  | sitecast: all is well\ufffd (SITECAST_X)\n  a\n  | b\n');
  const json = await run(['serve', '--json'], fail);
  expect(json.err).not.toMatch(/(?!\n)[\p{Cc}\p{Cf}]/u);
  expect(JSON.parse(json.err)).toMatchObject({
    error: { message: 'no\u001b[2J\nsitecast: all is well\u200b' },
  });
});

it('accepts a required setting from the file, and reports it as missing where no source gives it', async () => {
  const start = async (args: string[]) => {
    let data: unknown;
    let err = '';
    const program = new SettingsCommand('sitecast-thing');
    program
      .command('serve')
      .requiredOption('--data <dir>', 'where')
      .action((options: { data: string }) => {
        data = options.data;
      });
    const streams = { out: () => {}, err: (text: string) => (err += text) };
    return { exitCode: await runProgram(program, args, { streams }), data, err };
  };
  const config = await configFile('data: /srv/x\n');
  expect(await start(['serve', '--config', config])).toEqual({ exitCode: 0, data: '/srv/x', err: '' });
  expect(await start(['serve', '--config', config, '--data', 'y'])).toMatchObject({ data: 'y' });
  expect(await start(['serve'])).toMatchObject({
    exitCode: 2,
    data: undefined,
    err: expect.stringContaining("required option '--data <dir>' not specified"),
  });
});

it('takes settings from the environment, but no option that describes one act', async () => {
  const seen: unknown[] = [];
  const started = async (...args: string[]): Promise<void> => {
    const program = new SettingsCommand('tool');
    program
      .command('act')
      .option('--origin <url>', 'a setting')
      .option('--site <name>', 'what it is about')
      .action(options => void seen.push(options));
    limitSettings(program, new Set(['--origin <url>']));
    const streams = { out: (text: string) => void seen.push(text), err: () => {} };
    await runProgram(program, ['act', ...args], { streams });
  };
  process.env.SITECAST_SITE = 'south';
  process.env.SITECAST_ORIGIN = 'http://origin';
  try {
    await started();
    await started('--help');
  } finally {
    delete process.env.SITECAST_SITE;
    delete process.env.SITECAST_ORIGIN;
  }
  expect(seen[0]).toEqual({ origin: 'http://origin' });
  expect(String(seen[1])).toContain('SITECAST_ORIGIN');
  expect(String(seen[1])).not.toContain('SITECAST_SITE');
});

it.each([
  ['15s', '15 s'],
  ['0s', '0 s'],
  ['4h', '4 h'],
  ['90s', '1 min 30 s'],
  ['90m', '1 h 30 min'],
  ['1400ms', '1 s'],
  ['18704ms', '19 s'],
  ['59999ms', '1 min'],
  ['119999ms', '2 min'],
  ['7ms', '7 ms'],
  ['3599999ms', '1 h'],
  ['86461s', '1 d'],
  ['100h', '4 d 4 h'],
  ['14d', '14 d'],
])('shows the duration %s as %s', (given, shown) => {
  expect(formatDurationMs(parseDurationMs(given))).toBe(shown);
});
