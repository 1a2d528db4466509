import { runProgram } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { agentProgram } from './program.ts';
import type { RunSettings } from './settings.ts';
import type { CycleResult, Status } from './state/status.ts';
import { statusText } from './status-text.ts';

async function run(...args: string[]) {
  let text = '';
  const seen: RunSettings[] = [];
  const write = (chunk: string) => {
    text += chunk;
  };
  const never = () => Promise.reject(new Error('not asked for here'));
  const commands = {
    run: async (settings: RunSettings) => {
      seen.push(settings);
    },
    check: never,
    update: never,
    confirm: never,
    status: never,
    doctor: never,
  };
  const exitCode = await runProgram(agentProgram(commands, write), args, {
    streams: { out: write, err: write },
  });
  return { exitCode, text, settings: seen[0] };
}

const statusWith = (changes: Partial<Status>): Status => {
  const slot = { state: 'empty' as const, path: '/dev/a' };
  return {
    format: 'sitecast-status-1',
    at: new Date().toISOString(),
    pid: 1,
    id: 'd',
    product: 'camera',
    hardware: 'rpi4',
    enrolment: 'refused',
    state: 'failed',
    slots: { A: slot, B: slot },
    update: null,
    barred: [],
    gateways: [],
    metadata: { timestampVersion: 1, clock: 'ok' },
    reports: { pending: 0 },
    ...changes,
  };
};

const needed = [
  '--data=/tmp/data',
  '--gateway=http://127.0.0.1:7401',
  '--gateway=http://127.0.0.1:7402',
  '--product=camera',
  '--hardware=rpi4',
  '--slot-a=/dev/a',
  '--slot-b=/dev/b',
];

it('prints its help, with examples and exit codes, for --help', async () => {
  const { exitCode, text } = await run('--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('Usage: sitecast-agent');
  expect(text).toContain('Examples:');
  expect(text).toContain('Exit codes:');
});

it.each(['run', 'check', 'update', 'status', 'confirm'])('shows an example in the help of %s', async name => {
  const { exitCode, text } = await run(name, '--help');
  expect(exitCode).toBe(0);
  expect(text).toMatch(/Examples?:\n/);
});

it('refuses an unknown option with exit code 2 and names it', async () => {
  const { exitCode, text } = await run('run', '--frobnicate');
  expect(exitCode).toBe(2);
  expect(text).toContain('--frobnicate');
});

it('accepts its settings as flags', async () => {
  const { settings, text } = await run(
    'run',
    ...needed,
    '--boot=command',
    '--boot-command=boot-slots',
    '--slot-bytes=64MiB',
    '--poll=5s',
    '--hook-pre-reboot=true',
    '--health-command=false',
    '--factory-release=7:2.0.1',
  );
  expect(text).toBe('');
  expect(settings).toMatchObject({
    gateways: ['http://127.0.0.1:7401', 'http://127.0.0.1:7402'],
    slots: { A: '/dev/a', B: '/dev/b' },
    slotBytes: 67_108_864,
    boot: { kind: 'command', command: 'boot-slots' },
    hooks: { 'pre-reboot': 'true', health: 'false' },
    pollMs: 5000,
    factoryRelease: { counter: 7, version: '2.0.1' },
  });
});

it.each([
  [['--boot=file', '--first-slot=B'], { kind: 'file', path: undefined, firstSlot: 'B' }],
  [['--boot=grub'], { kind: 'grub', grubenv: '/boot/grub/grubenv', rebootCommand: 'reboot' }],
  [
    ['--boot=grub', '--boot-grubenv=/efi/grubenv', '--reboot-command=systemctl reboot'],
    { kind: 'grub', grubenv: '/efi/grubenv', rebootCommand: 'systemctl reboot' },
  ],
  [
    ['--boot=uboot'],
    { kind: 'uboot', fwConfig: '/etc/fw_env.config', scheme: 'boot-order', rebootCommand: 'reboot' },
  ],
  [
    ['--boot=uboot', '--boot-variables=bootcount', '--boot-fw-config=/x'],
    { kind: 'uboot', fwConfig: '/x', scheme: 'bootcount', rebootCommand: 'reboot' },
  ],
])('knows its boot controls: %j', async (flags, boot) => {
  expect((await run('run', ...needed, ...flags)).settings).toMatchObject({ boot });
});

it('knows its health checks, from flags and from the environment', async () => {
  const flags = ['--health-check', 'gateway', 'memory=64MiB', 'unit=a.service', 'unit=b@1.service'];
  const more = ['--health-retries=3', '--health-retry-pause=5s', '--confirm-after=10m'];
  const checks = {
    isGatewayChecked: true,
    memoryBytes: 67_108_864,
    diskBytes: undefined,
    units: ['a.service', 'b@1.service'],
  };
  const health = { checks, retries: 3, retryPauseMs: 5000, confirmAfterMs: 600_000 };
  expect((await run('run', ...needed, ...flags, ...more)).settings).toMatchObject({ health });
  process.env.SITECAST_HEALTH_CHECK = 'gateway,disk=1MiB';
  const { settings } = await run('run', ...needed);
  delete process.env.SITECAST_HEALTH_CHECK;
  expect(settings?.health.checks).toEqual({
    ...checks,
    memoryBytes: undefined,
    diskBytes: 1_048_576,
    units: [],
  });
});

it.each([
  ['a health check that is none', ['--health-check=cpu', ...needed], 'cpu'],
  ['memory without a size', ['--health-check=memory', ...needed], 'memory=64MiB'],
  ['a unit that a shell would read otherwise', ["--health-check=unit=x';reboot'", ...needed], 'unit=NAME'],
  ['no slot', needed.slice(0, -1), '--slot-b is needed'],
  ['a gateway that is no URL', ['--gateway=nowhere', ...needed], 'nowhere'],
  ['a name that is none', [...needed, '--product=Camera!'], '--product'],
  ['boot control without its command', [...needed, '--boot=command'], '--boot-command is needed'],
  ['a size that is none', [...needed, '--slot-bytes=huge'], '512MiB'],
])('refuses %s with exit code 2', async (_name, args, said) => {
  const { exitCode, text } = await run('run', ...args);
  expect(exitCode).toBe(2);
  expect(text).toContain(said);
});

it('shows what is wrong with a slot, in a word and with the full message', () => {
  const problem = (code: string) => ({ problem: { code, message: `the slot says ${code}` } });
  const shown = (code: string) => {
    const slots = {
      A: { state: 'altered' as const, path: '/dev/a' },
      B: { state: 'empty' as const, path: '/dev/b', ...problem(code) },
    };
    return statusText(statusWith({ slots, booted: 'A' }), { isAlive: true, nowMs: Date.now() });
  };
  for (const [code, word] of [
    ['SITECAST_SLOT_MISSING', 'missing'],
    ['SITECAST_SLOT_BUSY', 'in use'],
    ['SITECAST_SLOT_UNRELIABLE', 'unreadable'],
  ] as const) {
    expect(shown(code)).toMatch(/^slot A +\* booted +unknown /m);
    expect(shown(code)).toMatch(
      new RegExp(`^slot B +other +${word} .*/dev/b\n +the slot says ${code}$`, 'm'),
    );
  }
});

it('marks every line that a gateway or a hook has sent, so that none looks like its own', async () => {
  const evil = 'no\nenrolment  enrolled\u001b[2J\u200b';
  const reason = { code: 'SITECAST_X', message: evil };
  const slot = { state: 'empty' as const, path: '/dev/a', problem: reason };
  const status = statusWith({
    message: evil,
    slots: { A: slot, B: slot },
    metadata: { timestampVersion: 1, clock: 'ok', problem: reason },
    reports: { pending: 0, problem: evil },
  });
  const rest = { state: 'waiting' as const, reason };
  const shown = async (...args: string[]) => {
    let text = '';
    const write = (chunk: string) => void (text += chunk);
    const commands = {
      run: async () => {},
      check: async () => ({ rest }),
      update: async () => rest,
      confirm: async () => rest,
      status: async () => ({ status, isAlive: true }),
      doctor: async () => [],
    };
    const streams = { out: write, err: write };
    await runProgram(agentProgram(commands, write), [...args, '--data', 'x'], { streams });
    return text;
  };
  for (const command of ['status', 'check', 'update', 'confirm']) {
    const text = await shown(command);
    expect(text.match(/^enrolment/gm)?.length ?? 0).toBe(command === 'status' ? 1 : 0);
    expect(text).toContain('no ↵ enrolment  enrolled\ufffd[2J\ufffd');
    expect(await shown(command, '--json')).not.toMatch(/(?!\n)[\p{Cc}\p{Cf}]/u);
  }
});

it('update ends with 3 where the ordered release is refused here, and with 0 where there is nothing to do yet', async () => {
  const exitCodeOf = async (rest: CycleResult): Promise<number> => {
    const never = () => Promise.reject(new Error('not asked for here'));
    const commands = {
      run: never,
      check: never,
      update: async () => rest,
      confirm: never,
      status: never,
      doctor: never,
    };
    const streams = { out: () => {}, err: () => {} };
    return await runProgram(
      agentProgram(commands, () => {}),
      ['update', ...needed],
      { streams },
    );
  };
  const reason = { code: 'SITECAST_RELEASE_BARRED', message: '2.0.0 failed on this device' };
  expect(await exitCodeOf({ state: 'blocked', reason })).toBe(3);
  expect(await exitCodeOf({ state: 'waiting', waitingFor: 'window', reason })).toBe(0);
  expect(await exitCodeOf({ state: 'idle' })).toBe(0);
});
