import { runProgram } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { agentProgram } from './program.ts';
import type { RunSettings } from './settings.ts';

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
  };
  const exitCode = await runProgram(agentProgram(commands, write), args, {
    streams: { out: write, err: write },
  });
  return { exitCode, text, settings: seen[0] };
}

const needed = [
  '--data=/tmp/data',
  '--gateway=http://127.0.0.1:7401',
  '--gateway=http://127.0.0.1:7402',
  '--product=camera',
  '--hardware=rpi4',
  '--slot-a=/dev/a',
  '--slot-b=/dev/b',
];

it('explains itself, with examples and exit codes, with --help', async () => {
  const { exitCode, text } = await run('--help');
  expect(exitCode).toBe(0);
  expect(text).toContain('Usage: sitecast-agent');
  expect(text).toContain('Examples:');
  expect(text).toContain('Exit codes:');
});

it.each(['run', 'check', 'update', 'status', 'confirm'])('explains %s with an example', async name => {
  const { exitCode, text } = await run(name, '--help');
  expect(exitCode).toBe(0);
  expect(text).toMatch(/Examples?:\n/);
});

it('refuses an unknown option with exit code 2 and names it', async () => {
  const { exitCode, text } = await run('run', '--frobnicate');
  expect(exitCode).toBe(2);
  expect(text).toContain('--frobnicate');
});

it('takes its settings from flags', async () => {
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
