import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { type CommandResult, type RunningCommand, startSitecast } from './testing/command.ts';
import type { Said, TestMember } from './testing/device.ts';
import { FleetHarness } from './testing/fleet-harness.ts';

let harness: FleetHarness;
let server: RunningServer;
beforeEach(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
  server = await listen(harness.origin.app, { host: '127.0.0.1', port: 0 });
});
afterEach(async () => {
  await server.close(0);
  await harness.close();
});

/** The command as an operator types it. */
const begin = (...args: string[]): RunningCommand =>
  startSitecast([...args, '--origin', server.url, '--token', harness.origin.adminToken]);
const sitecast = (...args: string[]): Promise<CommandResult> => begin(...args).done;

const devices = async (count: number, site = 'north'): Promise<TestMember[]> => {
  const made: TestMember[] = [];
  while (made.length < count) made.push(await harness.device(site));
  return made;
};

async function start(...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await sitecast(
    'rollout',
    'start',
    'camera',
    '1.0.0',
    ...args,
    '--json',
  );
  expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
  return JSON.parse(stdout).id;
}

/** The report of a device about a rollout. */
const saying = (id: string, said: Said) => ({ rollout: { id, attempt: 1 }, ...said });
const WELL: Said = { state: 'completed' };
const FAILED: Said = { state: 'failed', reason: { code: 'healthFailed', message: 'no picture' } };

/** All devices that the rollout has reached report the same. */
async function everybody(id: string, members: readonly TestMember[], said: Said): Promise<void> {
  const status = await harness.call('GET', `/api/v1/rollouts/${id}`);
  const reached: { id: string }[] = Array.isArray(status.devices) ? status.devices : [];
  for (const member of members)
    if (reached.some(device => device.id === member.id)) await member.report(saying(id, said));
  await harness.origin.rollouts.checkCompletion();
}

async function passHours(hours: number): Promise<void> {
  harness.clock.passHours(hours);
  await harness.origin.rollouts.reconcile();
}

describe('rollout status --watch', () => {
  it('continues over the stages of a rollout, and exits with 0 when it is completed', async () => {
    const members = await devices(5);
    const id = await start('--stages', '20,60,100', '--soak', '1h');
    await everybody(id, members, WELL);
    const first = await sitecast('rollout', 'status', id);
    expect(first.stdout).toContain('active, stage 1 of 3, soaks until 2030-01-01T01:00:00.000Z');
    expect(first.stdout).toContain('1 of 5 devices reached  1 of 1 completed');
    const watching = begin('rollout', 'status', id, '--watch');
    await watching.until('1 of 1 completed');
    await passHours(1);
    await watching.until('stage 2 of 3  3 of 5 devices reached  1 of 3 completed, 2 pending');
    await everybody(id, members, WELL);
    await passHours(1);
    await watching.until('stage 3 of 3');
    await everybody(id, members, WELL);
    const { stdout } = await sitecast('rollout', 'status', id);
    expect(stdout).toContain('stage 3 of 3, soaks until 2030-01-01T03:00:00.000Z');
    expect(stdout).toMatch(
      /next: it's completed when it has soaked; .*`sitecast rollout rollback [0-9a-f]{16}`/,
    );
    await passHours(1);
    const watched = await watching.done;
    expect(watched).toMatchObject({ exitCode: 0, stderr: `rollout ${id} is completed\n` });
    expect(watched.stdout).toContain('5 of 5 devices reached  5 of 5 completed');
  });

  it('exits with 0 when the requested stage is over, and not before', async () => {
    const members = await devices(5);
    const id = await start('--stages', '20,60,100', '--soak', '1h');
    expect(await sitecast('rollout', 'status', id, '--until-stage', '4')).toMatchObject({ exitCode: 2 });
    await everybody(id, members, WELL);
    const one = await sitecast('rollout', 'status', id, '--until-stage', '1');
    expect(one).toMatchObject({ exitCode: 0, stderr: expect.stringContaining('stage 1 of 3') });
    const two = begin('rollout', 'status', id, '--until-stage', '2');
    await two.until('stage 1 of 3');
    await passHours(1);
    await two.until('stage 2 of 3');
    await everybody(id, members, WELL);
    const { exitCode, stdout, stderr } = await two.done;
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: expect.stringContaining('stage 2 of 3') });
    expect(stdout).toContain('3 of 3 completed');
  });

  it.each([
    [
      'paused by the origin',
      ['--max-failures', '0%'],
      FAILED,
      undefined,
      'is paused in stage 1 of 2 (failures)',
    ],
    ['aborted', [], WELL, 'abort', 'was aborted in stage 1 of 2'],
    ['sent back', [], FAILED, 'rollback', 'was sent back'],
    [
      'of which a stage has nobody who is well',
      ['--max-failures', '100%'],
      FAILED,
      undefined,
      'does not go on by itself',
    ],
  ] as const)('exits with 1 for one that is %s', async (_what, flags, said, act, text) => {
    const members = await devices(5);
    const id = await start('--stages', '20,100', ...flags);
    await everybody(id, members, said);
    if (act) await harness.call('POST', `/api/v1/rollouts/${id}/${act}`);
    for (const flag of ['--watch', '--until-stage=2']) {
      const { exitCode, stderr } = await sitecast('rollout', 'status', id, flag);
      expect({ exitCode, stderr }).toEqual({ exitCode: 1, stderr: expect.stringContaining(text) });
    }
    expect(await sitecast('rollout', 'status', id)).toMatchObject({ exitCode: 0 });
  });

  it('exits with 1 in the last stage with a tolerated failure, and with 0 once an operator completes it', async () => {
    const [bad, ...others] = await devices(3);
    const id = await start('--all-at-once', '--max-failures', '50%');
    await bad?.report(saying(id, FAILED));
    await everybody(id, others, WELL);
    const watched = await sitecast('rollout', 'status', id, '--watch', '--json');
    expect(watched.exitCode).toBe(1);
    expect(JSON.parse(watched.stderr).error).toMatchObject({ code: 'SITECAST_ROLLOUT_FAILED' });
    expect(JSON.parse(watched.stdout.trim())).toMatchObject({ state: 'active', total: 3, matching: 3 });
    await sitecast('rollout', 'complete', id);
    expect(await sitecast('rollout', 'status', id, '--watch')).toMatchObject({ exitCode: 0 });
  });

  it('of a rollout that soaks in its last stage exits at its completion; then it can be rolled back, and shows what that waits for', async () => {
    const members = await devices(2);
    const id = await start('--all-at-once', '--last-soak', '1h');
    const release = { counter: 1, version: '1.0.0' };
    await everybody(id, members, { state: 'completed', booted: { slot: 'B', release } });
    const until = await sitecast('rollout', 'status', id, '--until-stage', '1');
    expect(until).toMatchObject({ exitCode: 0, stderr: expect.stringContaining('stage 1 of 1') });
    await passHours(1);
    const watched = await sitecast('rollout', 'status', id, '--watch');
    expect(watched).toMatchObject({ exitCode: 0, stderr: `rollout ${id} is completed\n` });
    expect((await sitecast('rollout', 'status', id)).stdout).toContain(`\`sitecast rollout rollback ${id}\``);
    const back = await sitecast('rollout', 'rollback', id);
    expect(back).toMatchObject({
      exitCode: 0,
      stdout: `rollout ${id} of camera 1.0.0 is rollingBack\n`,
      stderr: expect.stringContaining('touches 2 devices'),
    });
    const shown = (await sitecast('rollout', 'status', id)).stdout;
    expect(shown).toContain(`next: 2 devices still to go back; those that come later`);
    expect(shown).toContain(`until \`sitecast rollout abort ${id}\``);
  });

  it('waits through an operator’s pause', async () => {
    const members = await devices(1);
    const id = await start('--all-at-once');
    await sitecast('rollout', 'pause', id);
    const watching = begin('rollout', 'status', id, '--watch');
    await watching.until('paused');
    await harness.call('POST', `/api/v1/rollouts/${id}/resume`);
    await watching.until('active');
    await everybody(id, members, WELL);
    expect(await watching.done).toMatchObject({ exitCode: 0 });
  });
});

describe('text from a device', () => {
  /** Text that must neither appear as a line of its own, nor control the terminal, nor be invisible. */
  const EVIL = 'no picture\nnorth-2  completed\t\u001b[2Jx\u200b\u{e0041}\u202e';
  const OBEYED = /(?!\n)[\p{Cc}\p{Default_Ignorable_Code_Point}]/u;

  it('can neither forge a line nor hide in one, in any command', async () => {
    const [device] = await devices(1);
    const id = await start('--all-at-once', '--max-failures', '0%');
    const reason = { code: 'x\ny', message: EVIL };
    await device?.report(
      saying(id, { state: 'failed', reason, inventory: { 'cpu\nstate': EVIL, state: 'completed' } }),
    );
    await harness.origin.rollouts.checkCompletion();
    const of = device?.id ?? '';
    await harness.call('PATCH', `/api/v1/devices/${of}`, { tags: { ring: EVIL } });
    await harness.call('POST', '/api/v1/tokens', { name: 'eve\u200b', role: 'viewer' });
    const lines = async (...args: string[]): Promise<string[]> => {
      const { stdout, stderr } = await sitecast(...args);
      expect(stdout + stderr).not.toMatch(OBEYED);
      return (stdout + stderr).trimEnd().split('\n');
    };
    expect(await lines('device', 'list')).toHaveLength(2);
    const [show, status] = [await lines('device', 'show', of), await lines('rollout', 'status', id)];
    const watched = await lines('rollout', 'status', id, '--watch');
    for (const shown of [show, status, watched]) {
      expect(shown.filter(line => line.includes('no picture ↵ north-2 completed'))).not.toEqual([]);
      expect(shown.filter(line => line.startsWith('north-2'))).toEqual([]);
    }
    // There are only four lines: headline and device, the ending and its hint.
    expect(watched).toHaveLength(4);
    // The device's own statements are below what the origin knows of it.
    expect(show.filter(line => /^state +failed$/.test(line))).toHaveLength(1);
    expect(show.indexOf('state        completed')).toBeGreaterThan(
      show.findIndex(line => /AS THE DEVICE SAYS/.test(line)),
    );
    expect(await lines('audit')).toHaveLength(1 + harness.origin.audit.head.seq);
    expect(await lines('token', 'list')).toContainEqual(expect.stringContaining('eve\ufffd'));
    // A script gets the original text, and a terminal gets nothing that it obeys.
    const { stdout } = await sitecast('device', 'show', of, '--json');
    expect(stdout).not.toMatch(OBEYED);
    expect(JSON.parse(stdout).last.reason).toEqual(reason);
  });
});

it('sitecast audit shows the matching entries by operator, action, subject and time, and says where there are none', async () => {
  const [device] = await devices(1);
  harness.clock.passHours(48);
  await harness.call('POST', `/api/v1/devices/${device?.id ?? ''}/revoke`);
  const found = async (...args: string[]) => {
    const { exitCode, stdout } = await sitecast('audit', ...args, '--json');
    expect(exitCode).toBe(0);
    const { entries }: { entries: { action: string }[] } = JSON.parse(stdout);
    return entries.map(({ action }) => action);
  };
  expect(await found('--by', 'origin', '--action', 'device')).toEqual(['device.enrol']);
  expect(await found('--of', device?.id.slice(-8) ?? '')).toEqual(['device.enrol', 'device.revoke']);
  expect(await found('--of', 'device', '--until', '2030-01-01')).toEqual(['device.enrol']);
  expect(await found('--since', '2030-01-02', '--until', '2030-01-03')).toEqual(['device.revoke']);
  expect(await found('--since', '2030-01-02', '--until', '2030-01-02')).toEqual([]);
  // The whole chain is checked, whatever part of it is shown.
  expect(await found('--verify', '--action', 'device.revoke')).toEqual(['device.revoke']);
  const { seq, hash } = harness.origin.audit.head;
  expect(await sitecast('audit', '--verify')).toMatchObject({
    stdout: `the chain holds: ${seq} entries, end ${seq}:${hash}\n`,
    stderr: '',
  });
  const none = await sitecast('audit', '--by', 'nobody');
  expect(none).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('no entry fits, of ') });
});

it('sitecast audit --of a name shows its present bearer and those before', async () => {
  const [first, second, other] = await devices(3);
  for (const [device, name] of [
    [first, 'cam-1'],
    [other, 'cam-2'],
    [first, 'cam-9'],
    [second, 'Cam-1'],
  ] as const)
    expect(await harness.call('PATCH', `/api/v1/devices/${device?.id ?? ''}`, { name })).toMatchObject({
      name,
    });
  const subjectsOf = async (of: string): Promise<Set<string>> => {
    const { stdout } = await sitecast('audit', '--of', of, '--json');
    const { entries }: { entries: { subject: string }[] } = JSON.parse(stdout);
    return new Set(entries.map(({ subject }) => subject));
  };
  expect(await subjectsOf('device:cam-1')).toEqual(
    new Set([first, second].map(device => `device:${device?.id ?? ''}`)),
  );
  expect(await subjectsOf('device:cam-2')).toEqual(new Set([`device:${other?.id ?? ''}`]));
});

it.each([
  ['--action', 'rollout.strat', 'rollout.start'],
  ['--of', 'devcie:cam-1', 'device'],
])('sitecast audit %s %s is a mistake in usage, as nothing like that is ever recorded', async (...words) => {
  const [option, value, hint] = words;
  const { exitCode, stderr } = await sitecast('audit', option, value);
  expect({ exitCode, stderr }).toEqual({
    exitCode: 2,
    stderr: expect.stringMatching(new RegExp(`SITECAST_USAGE_VALUE_INVALID[^]*${hint}`)),
  });
});

it('sitecast rollout start suggests the right name after a typing error, and shows how many devices it reaches and how long it soaks', async () => {
  await devices(5);
  const of = ['rollout', 'start', 'camera', '1.0.0'];
  const slip = await sitecast(...of, '--all-at-once', '--site', 'nroth');
  expect(slip).toMatchObject({ exitCode: 3, stdout: '' });
  expect(slip.stderr).toMatch(
    /the site nroth \(is it north\?\) \(SITECAST_MATCH_UNKNOWN\)\n {2}.*--allow-unknown/,
  );
  const dry = await sitecast(...of, '--stages', '1,20,100', '--soak', '15s', '--dry-run');
  expect(dry.stdout).toContain('stage 1, 1 %: 1 device more, then it soaks 15 s\n');
  expect(dry.stdout).toContain('stage 2, 20 %: 0 devices more, so the next begins at once\n');
  expect(dry.stdout).toContain('stage 3, 100 %: 4 devices more, then it soaks 15 s and is completed\n');
  const twice = await sitecast(...of, '--stages', '1,100', '--soak', '1h,2h', '--last-soak', '3h');
  expect(twice).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('SITECAST_OPTION_CONFLICT') });
  const short = await sitecast(...of, '--stages', '1,100', '--last-soak', '0s', '--dry-run');
  expect(short.stdout).toContain('stage 2, 100 %: 4 devices more, then it is completed\n');
  const started = await sitecast(...of, '--stages', '20,60,100');
  expect(started.stdout).toContain('camera 1.0.0 to 1 of 5 devices, in the first of 3 stages');
  const again = await sitecast(...of, '--all-at-once', '--dry-run');
  expect(again).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining("it can't be started yet: rollout "),
  });
  const moon = await sitecast(...of, '--all-at-once', '--site', 'moon', '--allow-unknown');
  expect(moon).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('SITECAST_ROLLOUT_OVERLAPS') });
});

describe('an empty list says why it is empty:', () => {
  it('no members at all, no matching ones, or an unknown name', async () => {
    const said = async (...args: string[]) => (await sitecast('device', 'list', ...args)).stdout;
    expect(await said()).toContain('no device is enrolled yet');
    await devices(1);
    expect(await said('--state', 'failed')).toBe('no device fits\n');
    expect(await said('--site', 'nroth')).toBe(
      'no device fits: nobody in the fleet has the site nroth (is it north?)\n',
    );
    expect(await said('--pending')).toBe('no device waits to be accepted\n');
    const waiting = [harness.member(), harness.member(), harness.member()];
    for (const member of waiting) await member.enrol();
    expect(await said('--pending', '--tag', 'ring=early')).toBe('no device of these waits to be accepted\n');
    const two = await sitecast('device', 'list', '--pending', '--limit', '2');
    expect(two.stdout.trimEnd().split('\n')).toHaveLength(3);
    expect(two.stderr).toContain('there are more than these 2');
    expect(await said('--pending', '--silent-for', '1h')).toContain('no device of these waits');
    harness.clock.passHours(1);
    expect((await said('--pending', '--silent-for', '1h')).trimEnd().split('\n')).toHaveLength(4);
  });

  it('and a new site is reported, in case it is a typing error', async () => {
    const [device] = await devices(1);
    const accepted = harness.member();
    await accepted.enrol();
    const slip = 'new in the fleet: the site nroth (is it north?)\n';
    expect((await sitecast('device', 'accept', accepted.id, '--site', 'nroth')).stderr).toBe(slip);
    expect((await sitecast('device', 'tag', device?.id ?? '', '--site', 'suoth')).stderr).toMatch(
      /the site suoth/,
    );
    expect((await sitecast('device', 'tag', device?.id ?? '', '--site', 'nroth')).stderr).toBe('');
    const token = ['token', 'create', '--join', '--kind', 'gateway', '--expires', '9999d', '--site'];
    expect((await sitecast(...token, 'nroht')).stderr).toContain('the site nroht (is it nroth?)');
    expect((await sitecast(...token, 'nroth')).stderr).not.toContain('new in');
  });
});

describe('an impossible act', () => {
  it('is refused before the question', async () => {
    const [one] = await devices(3);
    const id = await start('--all-at-once', '--on-failure', 'pause');
    const late = await sitecast('rollout', 'advance', id);
    expect(late).toMatchObject({ exitCode: 3 });
    expect(late.stderr).not.toContain('touches');
    await one?.report(saying(id, FAILED));
    await harness.origin.rollouts.checkCompletion();
    const { exitCode, stderr } = await sitecast('rollout', 'resume', id);
    expect(exitCode).toBe(3);
    expect(stderr).toMatch(/FAILED WITH[^]*SITECAST_ACKNOWLEDGE_NEEDED/);
    expect(stderr).not.toContain('touches');
    expect(await sitecast('rollout', 'resume', id, '--acknowledge')).toMatchObject({ exitCode: 0 });
  });
});
