import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pLimit from 'p-limit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Testbed, type CommandName } from './testbed/testbed.ts';

/** Texts that people and scripts depend on are recorded in `test/src/surface`; `npm run record:surface` records them again. */
const recorded = (name: string): string => `./surface/${name}.txt`;

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const COMMANDS: readonly CommandName[] = [
  'sitecast',
  'sitecast-origin',
  'sitecast-gateway',
  'sitecast-agent',
];
/** Most of the cost here is the start of processes. */
const atOnce = pLimit(2);

let testbed: Testbed;
/** The help of each command and of all its subcommands. */
const helpTexts = new Map<CommandName, string>();
beforeAll(async () => {
  testbed = await Testbed.open();
  await Promise.all(COMMANDS.map(async name => helpTexts.set(name, await readHelp(name))));
});
afterAll(() => testbed.close());

const subcommandsOf = (help: string): string[] =>
  [...(/\nCommands:\n((?: .*\n)*)/.exec(help)?.[1] ?? '').matchAll(/^ {2}([a-z-]+)/gm)]
    .flatMap(([, name]) => name ?? [])
    .filter(name => name !== 'help');

/** The help of a command and of all its subcommands, each under its name. */
async function readHelp(name: CommandName, path: readonly string[] = []): Promise<string> {
  const { stdout, exitCode } = await atOnce(() => testbed.run(name, [...path, '--help']));
  expect(exitCode).toBe(0);
  const below = await Promise.all(subcommandsOf(stdout).map(sub => readHelp(name, [...path, sub])));
  return [`==== ${[name, ...path].join(' ')}\n\n${stdout}`, ...below].join('\n');
}

const helpOf = (name: CommandName): string => helpTexts.get(name) ?? '';

it.each(COMMANDS)('%s and its subcommands show the help that is recorded', async name => {
  await expect(helpOf(name)).toMatchFileSnapshot(recorded(`help-${name}`));
});

describe('a configuration file', () => {
  /** Each option in a help text, with the placeholder of its value. */
  const optionsOf = (help: string): Map<string, string> =>
    new Map(
      [...help.matchAll(/^ {2}(?:-\w, )?--([a-z-]+)(?: [<[](.*?)[>\]])?/gm)].map(
        ([, name = '', value = '']) => [name, value],
      ),
    );
  const isUnknown = (stderr: string, key: string): boolean => stderr.includes(`unknown setting '${key}'`);

  it('may hold the keys that are recorded, for an operator', async () => {
    const keys: string[] = [];
    for (const key of optionsOf(helpOf('sitecast')).keys()) {
      await writeFile(testbed.path('keys.yaml'), `${key}: x\n`);
      const { stderr } = await testbed.run('sitecast', ['product', 'list', '--config', 'keys.yaml']);
      if (!isUnknown(stderr, key)) keys.push(key);
    }
    await expect(`${keys.toSorted().join('\n')}\n`).toMatchFileSnapshot(recorded('config-keys-sitecast'));
  });

  /** A valid value of each option, by the placeholder in the help, or by the option's name. */
  const VALUES: Record<string, string> = {
    '': 'true',
    'host:port': '127.0.0.1:0',
    listen: '127.0.0.1:0',
    'peer-listen': '127.0.0.1:0',
    'gossip-listen': '/ip4/127.0.0.1/tcp/0',
    'gossip-announce': '/ip4/127.0.0.1/tcp/1',
    'gossip-peer': '/ip4/127.0.0.1/tcp/1/p2p/12D3KooWB3KcnuwcLzqLKXstxYpVNEvM6cjAfJZFMSa4BqHZMzi2',
    duration: '1h',
    size: '1GiB',
    rate: '10Mbit',
    hours: 'Mon-Fri 08:00-18:00',
    day: '2026-11-30',
    level: 'info',
    format: 'json',
    n: '2',
    url: 'http://127.0.0.1:1',
    'url...': 'http://127.0.0.1:1',
    'counter:version': '1:1.0.0',
    boot: 'file',
    'boot-variables': 'boot-order',
    'first-slot': 'A',
    'time-sync': '"yes"',
    'metrics-file': 'x.prom',
    address: '127.0.0.1:0',
    'make-deltas': 'asked',
    deltas: 'on',
  };

  it.each<[CommandName, string]>([
    ['sitecast-origin', 'serve'],
    ['sitecast-gateway', 'serve'],
    ['sitecast-agent', 'run'],
  ])('may hold every option of %s %s', async (name, action) => {
    const [, , help = ''] = helpOf(name).split(new RegExp(`(^==== ${name} ${action}$)`, 'm'));
    const own = optionsOf(help.split(/^==== /m)[0] ?? '');
    for (const key of ['help', 'config', 'json']) own.delete(key);
    const lines = [...own].map(([key, value]) => `${key}: ${VALUES[key] ?? VALUES[value] ?? 'x'}`);
    await writeFile(testbed.path(`${name}.yaml`), [...lines, 'last-of-all: x', ''].join('\n'));
    const { stderr, exitCode } = await testbed.run(name, [action, '--config', `${name}.yaml`]);
    // The error names the first unknown key, so all keys before it are known.
    expect([exitCode, isUnknown(stderr, 'last-of-all') || stderr]).toEqual([2, true]);
    await expect(`${[...own.keys()].toSorted().join('\n')}\n`).toMatchFileSnapshot(
      recorded(`config-keys-${name}`),
    );
  });
});

describe('the metrics', () => {
  /** Labels with a fixed set of values, which requests can't influence. */
  const CLOSED = new Set(['role', 'where', 'what', 'presence', 'le']);

  const nameOf = (sample: string, types: ReadonlyMap<string, string>): string =>
    types.has(sample) ? sample : sample.replace(/_(?:bucket|sum|count)$/, '');

  /** Describes each of our metrics: its name, type, labels with their fixed values, and help. */
  function describeMetrics(text: string): string {
    const described = (kind: string) =>
      new Map(
        [...text.matchAll(new RegExp(`^# ${kind} (sitecast_\\w+) (.*)$`, 'gm'))].map(
          ([, name = '', rest = '']) => [name, rest],
        ),
      );
    const types = described('TYPE');
    const helps = described('HELP');
    const labels = new Map([...types.keys()].map(name => [name, new Set<string>()]));
    for (const [, sample = '', pairs = ''] of text.matchAll(/^(sitecast_\w+)\{(.*)\} /gm))
      for (const [, label = '', value = ''] of pairs.matchAll(/(\w+)="([^"]*)"/g))
        labels.get(nameOf(sample, types))?.add(CLOSED.has(label) ? `${label}=${value}` : label);
    const lines = [...types].map(
      ([name, type]) =>
        `${name} ${type} {${[...(labels.get(name) ?? [])].toSorted().join(' ')}} ${helps.get(name)}\n`,
    );
    return lines.toSorted().join('');
  }

  const scrape = async (url: string): Promise<string> => (await fetch(`${url}/metrics`)).text();

  it('of origin and gateway are those that are recorded', async () => {
    const listen = ['--listen', '127.0.0.1:0', '--log-level', 'error'];
    const origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...listen]);
    await testbed.foundRepository(origin);
    await writeFile(testbed.path('image'), 'an image');
    const about = ['--product', 'camera', '--version', '1.0.0', '--hardware', 'rpi4'];
    await testbed.json('sitecast', ['release', 'publish', 'image', ...about]);
    const token = ['token', 'create', '--join', '--kind', 'gateway', '--site', 'north', '--out', 'g.token'];
    await testbed.json('sitecast', token);
    const follow = ['serve', '--data', 'gateway', '--token-file', 'g.token', '--no-peers', '--poll', '1s'];
    const gateway = await testbed.serve('sitecast-gateway', [...follow, ...listen]);
    await testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);
    // Sent bytes are counted once a file has been sent.
    expect((await fetch(`${gateway.url}/metadata/timestamp.json`)).status).toBe(200);
    for (const { name, url } of [origin, gateway]) {
      // A request is counted when it has been answered. The next scrape shows this one.
      await scrape(url);
      const text = await scrape(url);
      expect(text).toContain('\nprocess_cpu_seconds_total ');
      await expect(describeMetrics(text)).toMatchFileSnapshot(recorded(`metrics-${name}`));
    }
  });
});

describe('the error codes', () => {
  /** Codes that a page names. `SITECAST_X_MISSING`, `_SHORT` names SITECAST_X_SHORT too. */
  function codesIn(page: string): Set<string> {
    const codes = new Set<string>();
    let last = '';
    for (const [, code = ''] of page.matchAll(/`((?:SITECAST)?_[A-Z0-9_]*[A-Z0-9])(?:_…)?`/g)) {
      const whole = code.startsWith('_') ? last.replace(/_[A-Z0-9]+$/, code) : code;
      last = whole;
      codes.add(whole);
    }
    return codes;
  }

  async function codesInSources(): Promise<Set<string>> {
    const texts = await Promise.all(
      ['shared', 'origin', 'gateway', 'agent'].map(async name => {
        const folder = join(TOP, name, 'src');
        const files = (await readdir(folder, { recursive: true })).filter(
          file => file.endsWith('.ts') && !/\.test\.ts$|(?:^|\/)testing\//.test(file),
        );
        return Promise.all(files.map(file => readFile(join(folder, file), 'utf8')));
      }),
    );
    const code = /['`](SITECAST_[A-Z0-9_]*[A-Z0-9])_?(?:['`]|\$\{)/g;
    return new Set(
      texts.flat().flatMap(text => [...text.matchAll(code)].flatMap(([, found]) => found ?? [])),
    );
  }

  /** Environment variables, which look like codes. */
  const variables = (): string[] =>
    [
      ...COMMANDS.flatMap(name => [...helpOf(name).matchAll(/SITECAST_[A-Z_]*[A-Z]/g)]),
      ['SITECAST_DEBUG'],
      ['SITECAST_CONFIG'],
      ['SITECAST_PASSPHRASE'],
    ].flatMap(([name]) => name ?? []);
  const withoutVariables = (codes: Set<string>): string[] => {
    const known = new Set(variables());
    return [...codes].filter(code => !known.has(code)).toSorted();
  };

  it('of docs/ERRORS.md are those that are recorded, and those that the code has', async () => {
    const documented = withoutVariables(codesIn(await readFile(join(TOP, 'docs/ERRORS.md'), 'utf8')));
    // The code builds names with this prefix: `SITECAST_WAITING_…`.
    const isFamily = (code: string): boolean => documented.some(other => other.startsWith(`${code}_`));
    const known = withoutVariables(await codesInSources());
    expect(known.filter(code => !documented.includes(code) && !isFamily(code))).toEqual([]);
    expect(documented.filter(code => !known.includes(code))).toEqual([]);
    await expect(`${documented.join('\n')}\n`).toMatchFileSnapshot(recorded('error-codes'));
  });
});
