import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatJoinToken } from '@sitecast/shared/fleet';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BootProgram } from './testing/boot-program.ts';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { AgentProcess, until } from './testing/process.ts';
import { FakeGateway } from './testing/fake-gateway.ts';

// The real command, in processes of its own, against a site over real HTTP.

let directory: string;
let fleet: FleetRepository;
let origin: OriginRecords;
let site: FakeGateway;
const running: AgentProcess[] = [];
const image1 = randomBytes(120_000);
const image2 = randomBytes(110_000);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-agent-'));
  fleet = await FleetRepository.create();
  origin = new OriginRecords(fleet);
  site = await FakeGateway.open(origin);
  await writeFile(join(directory, 'root.json'), fleet.rootBytes);
  fleet.addRelease({ counter: 1, image: image1 });
  fleet.addRelease({ counter: 2, image: image2 });
  await fleet.publishAll();
});
afterEach(async () => {
  for (const agent of running.splice(0)) await agent.stop('SIGKILL');
  await site.close();
  await rm(directory, { recursive: true, force: true });
});

const data = () => join(directory, 'data');
const settings = () => [
  `--data=${data()}`,
  `--gateway=${site.url}`,
  `--root=${join(directory, 'root.json')}`,
  '--product=camera',
  '--hardware=rpi4',
  `--slot-a=${join(directory, 'a.img')}`,
  `--slot-b=${join(directory, 'b.img')}`,
];

function daemon(...more: string[]): AgentProcess {
  const agent = new AgentProcess(['run', ...settings(), '--poll=30s', ...more]);
  running.push(agent);
  return agent;
}

async function status(): Promise<Record<string, unknown>> {
  const { stdout } = await AgentProcess.run(['status', `--data=${data()}`, '--json']);
  return stdout === '' ? {} : JSON.parse(stdout);
}

const messageOf = (line: string): string => JSON.parse(line).msg;
const hasReported = (state: string, counter: number) => () =>
  origin.reports.some(report => report.state === state && report.release?.counter === counter);

it('tells Prometheus how it is: by a file that is there as long as it runs, and at a port of this machine; neither keeps it from its work', async () => {
  const file = join(directory, 'sitecast.prom');
  const agent = daemon(`--metrics-file=${file}`, '--metrics-listen=127.0.0.1:0');
  const urlIn = (log: string) => /http:\/\/127\.0\.0\.1:(\d+)\/metrics/.exec(log) ?? [];
  await until('it serves its metrics', () => urlIn(agent.stderr).length > 0);
  const [url = '', port = ''] = urlIn(agent.stderr);
  const other = new AgentProcess([
    'run',
    ...settings().map(option => option.replace(/\/(data|a\.img|b\.img)$/, '/other-$1')),
    '--poll=30s',
    `--metrics-file=${join(directory, 'missing', 'sitecast.prom')}`,
    `--metrics-listen=127.0.0.1:${port}`,
  ]);
  running.push(other);
  await until('both have enrolled', () => new Set(origin.reports.map(({ id }) => id)).size === 2);
  fleet.addRollout(1);
  await fleet.publishAll();
  await until('release 1 is completed', hasReported('completed', 1));
  const served = async () => (await fetch(url)).text();
  await until('it shows release 1', async () => (await served()).includes('version="1.0.0"} 1'));
  expect(await served()).toMatch(/^sitecast_agent_slot\{slot="B",version="1\.0\.0"\} 1$/m);
  expect(await served()).toMatch(/^sitecast_agent_enrolled 1$/m);
  expect((await fetch(new URL('/', url))).status).toBe(404);
  expect(await readFile(file, 'utf8')).toMatch(/^sitecast_agent_state\{state="\w+"\} 1$/m);
  expect((await agent.stop()).exitCode).toBe(0);
  expect(existsSync(file)).toBe(false);
  const warnings = (await other.stop()).stderr.split('\n').filter(line => line.includes("metrics can't be"));
  expect(warnings).toHaveLength(2);
});

it.each([
  ['--metrics-listen=0.0.0.0:9404', 'this machine alone'],
  ['--metrics-listen=192.0.2.7:9404', 'this machine alone'],
  ['--metrics-file=/tmp/metrics.txt', '.prom'],
])('refuses %s', async (option, why) => {
  const { exitCode, stderr } = await AgentProcess.run(['run', ...settings(), option]);
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining(why)]);
});

it('installs the release of a rollout within a moment, and shows it in its status', async () => {
  const agent = daemon('--health-command', `cmp -s "$SITECAST_SLOT" ${join(directory, 'good.img')}`);
  await until('it has enrolled', () => origin.reports.length > 0);
  await writeFile(join(directory, 'good.img'), image1);
  fleet.addRollout(1);
  await fleet.publishAll();
  await until('release 1 is completed', hasReported('completed', 1));
  expect(await readFile(join(directory, 'b.img'))).toEqual(image1);

  // The health command refuses release 2.
  fleet.addRollout(2);
  await fleet.publishAll();
  await until('release 2 has fallen back', hasReported('rolledBack', 2));
  const shown = await AgentProcess.run(['status', `--data=${data()}`]);
  expect(shown).toMatchObject({ exitCode: 0, stderr: '' });
  expect(shown.stdout).toMatch(/slot B +\* booted +verified +1\.0\.0 \(1\)/);
  expect(shown.stdout).toMatch(/slot A +other +bad/);
  expect(shown.stdout).toMatch(/failed +2\.0\.0.*healthFailed/);
  expect(shown.stdout).toMatch(/barred +2\.0\.0/);
  expect(shown.stdout).toContain(`${site.url}, heard`);
  expect(shown.stdout.split('\n').length).toBeLessThan(24);
  expect(shown.stdout).not.toContain('plan ');
  const ended = await agent.stop();
  expect(ended.exitCode).toBe(0);
  const journal = ended.stderr.trim().split('\n').map(messageOf);
  const story = [
    'enrolment: enrolled',
    'ordered to install 1.0.0',
    'downloading 1.0.0',
    'slot B holds 1.0.0, verified',
    'rebooting into 1.0.0',
    'health checks of 1.0.0',
    'confirmed 1.0.0',
    'ordered to install 2.0.0',
    'slot A holds 2.0.0, verified',
    expect.stringMatching(/^2\.0\.0 failed: /),
    expect.stringMatching(/^rolled back from 2\.0\.0: /),
  ];
  expect(journal).toEqual(expect.arrayContaining(story));
  for (const once of [
    /^downloading 1\.0\.0$/,
    /^confirmed 1\.0\.0$/,
    /failed: /,
    /^rolled ?back/i,
    /^completed/,
  ])
    expect(journal.filter(line => once.test(line)).length).toBeLessThanOrEqual(1);
  expect(await status()).toMatchObject({ isAlive: false, booted: 'B' });
});

it('allows one daemon per data directory, and the other commands connect to it', async () => {
  daemon();
  await until('it has enrolled', () => origin.reports.length > 0);
  const files = ['identity.key', 'control.sock', 'state.json', 'reports.jsonl'];
  const modes = await Promise.all(files.map(async name => (await stat(join(data(), name))).mode & 0o777));
  expect(modes).toEqual([0o600, 0o600, 0o600, 0o600]);
  const second = await AgentProcess.run(['run', ...settings()]);
  expect(second.exitCode).toBe(3);
  expect(second.stderr).toContain('SITECAST_DATA_IN_USE');
  const nothing = await AgentProcess.run(['check', `--data=${data()}`]);
  expect(nothing).toMatchObject({ exitCode: 0, stdout: 'no known release runs; nothing to do\n' });
  fleet.addRollout(1);
  await fleet.publishAll();
  const updated = await AgentProcess.run(['update', `--data=${data()}`]);
  expect(updated.exitCode).toBe(0);
  await until('it is completed', hasReported('completed', 1));
});

it('refuses options beside a daemon that goes by other ones, whatever the command, and does nothing then', async () => {
  daemon('--max-bytes=1MiB');
  await until('it has enrolled', () => origin.reports.length > 0);
  fleet.addRollout(1, { notBefore: new Date(Date.now() + 3_600_000).toISOString(), download: 'window' });
  await fleet.publishAll();
  for (const command of ['check', 'update', 'confirm']) {
    const other = await AgentProcess.run([command, `--data=${data()}`, '--max-bytes=2MiB', '--deltas=on']);
    expect(other).toMatchObject({ exitCode: 3, stdout: '' });
    expect(other.stderr).toMatch(
      /another value of --max-bytes: nothing was done \(SITECAST_DAEMON_SETTINGS\)/,
    );
  }
  // The same ones, as the environment, a configuration file and a copied command line give them.
  const same = await AgentProcess.run(['update', ...settings(), '--max-bytes=1048576', '--poll=30s'], {
    SITECAST_MAX_APPLY_TIME: '1m',
  });
  expect(same).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('(for notBefore)') });
});

it('says of a mistyped --data that nothing is there, and makes nothing', async () => {
  const typo = join(directory, 'dtaa');
  for (const command of ['check', 'update', 'confirm']) {
    const { exitCode, stderr } = await AgentProcess.run([command, `--data=${typo}`]);
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(`nothing is in ${typo}`)]);
  }
  await expect(stat(typo)).rejects.toMatchObject({ code: 'ENOENT' });
  const begun = await AgentProcess.run(['check', ...settings()]);
  expect(begun.stderr).toContain(`nothing is in ${data()}: a new device begins there`);
  expect((await AgentProcess.run(['check', ...settings()])).stderr).not.toContain('nothing is in');
});

it('works without a daemon: check, then update, in one process each', async () => {
  fleet.addRollout(1);
  await fleet.publishAll();
  const checked = await AgentProcess.run(['check', ...settings(), '--json']);
  expect(JSON.parse(checked.stdout)).toMatchObject({
    available: { kind: 'install', release: { counter: 1 } },
  });
  const updated = await AgentProcess.run(['update', ...settings(), '--json']);
  expect(JSON.parse(updated.stdout)).toMatchObject({ state: 'completed' });
  expect(await readFile(join(directory, 'b.img'))).toEqual(image1);
});

it('loads libp2p for peers, and none of it with --no-peers', async () => {
  const hook = `import { existsSync, readFileSync, writeSync } from 'node:fs';
  export async function load(url, context, next) {
    const map = url.startsWith('file:') ? new URL(url + '.map') : undefined;
    // A bundle's source map names the modules in it.
    const { sources } = map && existsSync(map) ? JSON.parse(readFileSync(map, 'utf8')) : { sources: [] };
    if ([url, ...sources].some(name => name.includes('libp2p'))) writeSync(2, 'LIBP2P');
    return next(url, context);
  }`;
  const dataUrl = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`;
  const register = `import { register } from 'node:module'; register(${JSON.stringify(dataUrl(hook))});`;
  const env = { NODE_OPTIONS: `--import=${dataUrl(register)}` };
  const [without, withPeers] = [
    await AgentProcess.run(['update', ...settings(), '--no-peers'], env),
    await AgentProcess.run(['update', ...settings(), '--no-mdns'], env),
  ];
  expect([without.exitCode, withPeers.exitCode]).toEqual([0, 0]);
  expect(without.stderr).not.toContain('LIBP2P');
  expect(withPeers.stderr).toContain('LIBP2P');
});

it('waits for the confirm command where that is configured, and falls back without it', async () => {
  fleet.addRollout(1);
  await fleet.publishAll();
  daemon('--confirm-within=30s');
  await until('it is confirming', async () => (await status()).waitingFor === 'confirm');
  expect((await AgentProcess.run(['confirm', `--data=${data()}`])).exitCode).toBe(0);
  await until('it is completed', hasReported('completed', 1));
  await running[0]?.stop();
  fleet.addRollout(2);
  await fleet.publishAll();
  const late = await AgentProcess.run(['update', ...settings(), '--confirm-within=200ms']);
  expect(late.exitCode).toBe(1);
  expect(late.stdout).toContain('confirmTimedOut');
});

it('treats a captive portal as an unreachable gateway: check exits with code 4, and a daemon waits', async () => {
  const token = formatJoinToken('http://origin.example', fleet.rootSha256, KeyPair.generate());
  const common = [...settings().filter(setting => !setting.startsWith('--root')), `--token=${token}`];
  site.misbehave = () => 'portal';
  const checked = await AgentProcess.run(['check', ...common]);
  expect(checked).toMatchObject({ exitCode: 4, stderr: expect.stringContaining('is it a gateway?') });
  const agent = new AgentProcess(['run', ...common, '--poll=1s']);
  running.push(agent);
  await until('it waits', () => agent.stderr.includes('no gateway to begin with yet'));
  site.misbehave = () => undefined;
  await until('it has enrolled', () => origin.reports.length > 0);
  expect((await agent.stop()).exitCode).toBe(0);
});

it('may be stopped together with its health check, as a service manager does: the check runs again after the next start', async () => {
  const program = await BootProgram.create(directory);
  await program.reboots('late');
  const boot = ['--boot=command', `--boot-command=${program.command}`];
  fleet.addRollout(1);
  await fleet.publishAll();
  const pidFile = join(directory, 'health.pid');
  const first = daemon(
    ...boot,
    '--health-command',
    `echo $$ > ${pidFile}; exec sleep 600`,
    '--health-timeout=30m',
  );
  await until('the health check runs', async () => (await readFile(pidFile, 'utf8').catch(() => '')) !== '');
  process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGTERM');
  process.kill(first.pid, 'SIGTERM');
  expect(await first.ended).toMatchObject({ exitCode: 0, signal: null });
  expect(await status()).toMatchObject({ isAlive: false, update: { phase: 'confirming' }, barred: [] });
  // The same holds for a command without a daemon.
  const pid = await readFile(pidFile, 'utf8');
  const update = new AgentProcess([
    'update',
    ...settings(),
    ...boot,
    '--health-command',
    `echo $$ > ${pidFile}; exec sleep 600`,
    '--health-timeout=30m',
  ]);
  running.push(update);
  await until('it runs again', async () => !['', pid].includes(await readFile(pidFile, 'utf8')));
  const interrupted = await update.stop();
  expect(interrupted).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('SITECAST_INTERRUPTED'),
  });
  daemon(...boot, '--health-command', 'true');
  await until('it is completed', hasReported('completed', 1));
  expect(
    origin.reports.filter(({ state, reason }) => state === 'failed' || reason?.code === 'powerLoss'),
  ).toEqual([]);
  expect((await program.calls()).filter(call => call === 'reboot')).toHaveLength(1);
});

it.skipIf(process.getuid?.() !== 0)(
  'starts on a full disk and waits for room (needs root for a tmpfs)',
  async ({ skip }) => {
    const small = join(directory, 'small');
    await mkdir(small);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', small], { stdio: 'pipe' });
    } catch (error) {
      if (process.env.CI) throw error;
      console.log(`skipped: no tmpfs can be mounted here (${String(error)})`);
      skip();
    }
    const fill = () =>
      writeFile(join(small, 'filler'), Buffer.alloc(600_000)).catch(() => {
        // The disk is full, as intended.
      });
    try {
      await fill();
      const agent = daemon(`--data=${join(small, 'data')}`);
      await until('it waits for room', () => agent.stderr.includes('no room for'));
      expect(agent.stderr).toContain(`free on the file system of ${small}`);
      await rm(join(small, 'filler'));
      await until('it has enrolled', () => origin.reports.length > 0);
      expect((await agent.stop()).exitCode).toBe(0);
      // And with a directory of its own there, in which nothing more can be written: it runs, and says so.
      await fill();
      const again = daemon(`--data=${join(small, 'data')}`);
      const shown = async () => (await AgentProcess.run(['status', `--data=${join(small, 'data')}`])).stdout;
      await until('it waits again', async () => (await shown()).includes('waiting (for space)'));
      const text = await shown();
      expect(text).toMatch(/^agent +runs /m);
      expect(text).toMatch(
        /^state +waiting \(for space\): no room for \S+: it takes \d+ B, and 0 B are free on /m,
      );
      const options = settings().map(option =>
        option.startsWith('--data=') ? `--data=${join(small, 'data')}` : option,
      );
      // There is something new to write down.
      fleet.addRollout(1);
      await fleet.publishAll();
      const check = await AgentProcess.run(['check', ...options]);
      expect(check).toMatchObject({
        exitCode: 0,
        stdout: expect.stringMatching(/waiting \(for space\): no room for/),
      });
      await rm(join(small, 'filler'));
      expect((await again.stop()).exitCode).toBe(0);
    } finally {
      for (const agent of running.splice(0)) await agent.stop('SIGKILL');
      execFileSync('umount', [small], { stdio: 'pipe' });
    }
  },
);

it('starts with only a join token, and does not start without any root to trust', async () => {
  const pair = KeyPair.generate();
  const token = formatJoinToken('http://origin.example', fleet.rootSha256, pair);
  const others = settings().filter(setting => !setting.startsWith('--root'));
  const without = await AgentProcess.run(['check', ...others]);
  expect(without.exitCode).toBe(2);
  expect(without.stderr).toContain('SITECAST_ROOT_MISSING');
  const other = formatJoinToken('http://origin.example', 'f'.repeat(64), pair);
  const mistrusted = await AgentProcess.run(['check', ...others], { SITECAST_TOKEN: other });
  expect(mistrusted.exitCode).toBe(5);
  expect(mistrusted.stderr).toContain('SITECAST_ROOT_MISMATCH');
  expect(`${mistrusted.stderr}${mistrusted.stdout}`).not.toContain(other);
  const right = await AgentProcess.run(['check', ...others], { SITECAST_TOKEN: token });
  expect(right.exitCode).toBe(0);
  expect(`${right.stderr}${right.stdout}`).not.toContain(token);
  expect(origin.assignments.size).toBe(1);
});

it('exits with code 4 at its first start where no gateway answers; a daemon waits for one', async () => {
  const token = join(directory, 'join.token');
  await writeFile(token, formatJoinToken('http://origin.example', fleet.rootSha256, KeyPair.generate()));
  const own = settings().filter(setting => !/^--(root|gateway)/.test(setting));
  // A port that is free at present.
  const { url } = site;
  await site.close();
  const common = [...own, `--gateway=${url}`, `--token-file=${token}`];
  const rooted = [...own, `--gateway=${url}`, `--root=${join(directory, 'root.json')}`];
  for (const [command, given] of [
    ['check', common],
    ['update', common],
    ['check', rooted],
    ['update', rooted],
  ] as const) {
    const refused = await AgentProcess.run([command, ...given]);
    expect(refused).toMatchObject({ exitCode: 4, stderr: expect.stringContaining('nothing listens there') });
    await rm(data(), { recursive: true });
  }
  const agent = new AgentProcess(['run', ...common, '--poll=1s']);
  running.push(agent);
  await until('it waits', () => agent.stderr.includes('no gateway to begin with yet'));
  site = await FakeGateway.open(origin, Number(new URL(url).port));
  await until('it has enrolled', () => origin.reports.length > 0);
  await agent.stop();
  await rm(token);
  const again = await AgentProcess.run(['check', ...common]);
  expect(again).toMatchObject({ exitCode: 0, stderr: expect.stringContaining('goes on') });
});

it.each(['report after#2', 'state.json after#9', 'reboot before'])(
  'continues with the same slot after SIGKILL at the failpoint "%s", fetches nothing twice, and reports everything once',
  async point => {
    fleet.addRollout(1);
    await fleet.publishAll();
    const killed = await AgentProcess.run(['update', ...settings()], {
      SITECAST_TEST_KILL_AT: point,
    });
    expect(killed.signal).toBe('SIGKILL');
    const second = await AgentProcess.run(['update', ...settings(), '--json']);
    expect(second.exitCode).toBe(0);
    expect((await readFile(join(directory, 'b.img'))).equals(image1)).toBe(true);
    const states = origin.reports.filter(({ reason }) => reason?.code !== 'powerLoss');
    expect(states.map(({ state }) => state)).toEqual([
      'idle',
      'downloading',
      'verifying',
      'installing',
      'rebooting',
      'confirming',
      'completed',
    ]);
    expect(origin.conflicts).toEqual([]);
    const asked = site.requests.filter(line => line.includes('/chunks/'));
    expect(asked.length - new Set(asked).size).toBeLessThanOrEqual(8);
  },
);

it('starts with block devices only where --boot is given, or where it has run so before, and warns where nothing is checked', async () => {
  const devices = ['--slot-a=/dev/sitecast-none-a', '--slot-b=/dev/sitecast-none-b'];
  const refused = await AgentProcess.run(['run', ...settings(), ...devices]);
  expect(refused).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining('SITECAST_BOOT_KIND_MISSING'),
  });
  expect(refused.stderr).toContain('--boot grub, uboot or command');
  const accepted = daemon(...devices, '--boot=file');
  await until('it runs', async () => (await status()).booted === 'A');
  expect((await status()).boot).toMatchObject({ kind: 'file', next: 'A' });
  expect((await accepted.stop()).stderr).toContain('nothing is checked of a new slot');
  const before = daemon(...devices, '--health-command=true', '--watchdog=/dev/sitecast-none');
  await until('it runs again', async () => (await status()).isAlive === true);
  expect(before.stderr).toContain('--boot is needed');
  expect((await status()).watchdog).toMatchObject({ problem: expect.stringMatching(/no such file/i) });
});
