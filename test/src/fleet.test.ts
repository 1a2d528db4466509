import { createHash, randomBytes } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { parseJoinToken, type Report, sealEnrolment, sealReport } from '@sitecast/shared/fleet';
import { signRequest } from '@sitecast/shared/http-signature';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let origin: Server;

// One fleet for all tests. Each test makes its own devices.
beforeAll(async () => {
  testbed = await Testbed.open();
  origin = await startOrigin();
  await testbed.foundRepository(origin);
  await writeFile(testbed.path('image'), randomBytes(200_000));
  await testbed.json('sitecast', [
    'release',
    'publish',
    'image',
    '--product',
    'camera',
    '--version',
    '1.0.0',
    '--hardware',
    'rpi4',
  ]);
});
afterAll(() => testbed.close());

const startOrigin = (address = '127.0.0.1:0') =>
  testbed.serve('sitecast-origin', ['serve', '--data', 'origin', '--listen', address, '--log-level', 'warn']);

/** A device that only talks to the origin, and installs nothing. */
class Speaker {
  readonly identity = new Identity(KeyPair.generate());
  readonly #epoch = randomBytes(8).toString('hex');
  #seq = 0;
  #previous: string | null = null;

  async post(path: string, value: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
    const body = Buffer.from(JSON.stringify(value));
    const url = origin.url + path;
    const headers = await signRequest({ method: 'POST', url, body }, this.identity, Date.now());
    const response = await fetch(url, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...headers },
    });
    const answer: Record<string, unknown> = JSON.parse(await response.text());
    return { status: response.status, body: answer };
  }

  /** @param name the name that it asks for */
  async enrol(token?: string, name?: string) {
    const pair = token === undefined ? undefined : parseJoinToken(token).pair;
    const enrolment = {
      format: 'sitecast-enrolment-1' as const,
      id: this.identity.id,
      nonce: randomBytes(16).toString('hex'),
      kind: 'device' as const,
      product: 'camera',
      hardware: 'rpi4',
      ...(name !== undefined && { name }),
      ...(pair && { token: pair.keyId }),
    };
    return await this.post('/site/v1/enrolments', {
      envelope: await sealEnrolment(enrolment, this.identity, pair),
    });
  }

  async next(said: Partial<Report>) {
    this.#seq += 1;
    const report: Report = {
      format: 'sitecast-report-1',
      id: this.identity.id,
      epoch: this.#epoch,
      seq: this.#seq,
      previous: this.#previous,
      at: new Date().toISOString(),
      timestampVersion: 1,
      state: 'idle',
      ...said,
    };
    const envelope = await sealReport(report, this.identity);
    this.#previous = createHash('sha256').update(Buffer.from(envelope.payload, 'base64')).digest('hex');
    return envelope;
  }

  async report(said: Partial<Report>) {
    return await this.post('/site/v1/reports', { reports: [await this.next(said)] });
  }
}

async function refused(...args: string[]): Promise<{ exitCode: number | null; code: string }> {
  const { exitCode, stdout, stderr } = await testbed.run('sitecast', [...args, '--json']);
  expect(stdout).toBe('');
  return { exitCode, code: JSON.parse(stderr.trim().split('\n').at(-1) ?? '').error.code };
}

const said = async (...args: string[]): Promise<string> => {
  const { exitCode, stdout, stderr } = await testbed.run('sitecast', args);
  expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
  return stdout;
};

describe('sitecast', () => {
  it('creates join tokens that let devices in, lists them without secrets, and revokes them', async () => {
    await testbed.json('sitecast', [
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'north',
      '--product',
      'camera',
      '--uses',
      '2',
      '--expires',
      '1h',
      '--out',
      'camera.token',
    ]);
    expect((await stat(testbed.path('camera.token'))).mode & 0o777).toBe(0o600);
    const token = await readFile(testbed.path('camera.token'), 'utf8');
    const device = new Speaker();
    expect((await device.enrol(token)).status).toBe(200);
    const list = await said('token', 'list', '--join');
    expect(list).toContain('1 of 2');
    const id = parseJoinToken(token).pair.keyId;
    expect(await said('token', 'revoke', '--join', id.slice(0, 12))).toContain(id);
    expect((await new Speaker().enrol(token)).body).toMatchObject({ code: 'SITECAST_JOIN_TOKEN_UNKNOWN' });
    expect(await testbed.json('sitecast', ['device', 'list', '--site', 'north'])).toMatchObject({
      devices: [{ id: device.identity.id, product: 'camera', state: 'enrolled' }],
    });
  });

  it.each([
    [['token', 'create', '--join'], 'SITECAST_OPTION_MISSING'],
    [['token', 'create'], 'SITECAST_OPTION_MISSING'],
    [['token', 'create', '--join', '--kind', 'device', '--role', 'viewer'], 'SITECAST_OPTION_CONFLICT'],
    [
      ['token', 'create', '--join', '--kind', 'device', '--name', 'x', '--uses', '2'],
      'SITECAST_OPTION_CONFLICT',
    ],
    [['device', 'name', 'x'], 'SITECAST_OPTION_CONFLICT'],
    [['token', 'create', '--name', 'x', '--uses', '2'], 'SITECAST_OPTION_CONFLICT'],
  ])('%j is refused', async (args, code) => {
    expect(await refused(...args)).toEqual({ exitCode: 2, code });
  });

  it('accepts a waiting device by a part of its id; tags, shows and revokes it', async () => {
    const device = new Speaker();
    expect((await device.enrol()).status).toBe(202);
    const { id } = device.identity;
    expect(await said('device', 'list', '--pending')).toContain(id);
    expect(await refused('device', 'accept', id)).toEqual({ exitCode: 2, code: 'SITECAST_SITE_MISSING' });
    expect(await said('device', 'accept', id.slice(-10), '--site', 'hill')).toContain('hill');
    expect(await said('device', 'tag', id.slice(-10), 'ring=early', 'floor=2')).toContain(
      'ring=early floor=2',
    );
    expect(await said('device', 'tag', id, 'floor-')).not.toContain('floor');
    await device.report({
      state: 'failed',
      reason: { code: 'healthFailed', message: 'the camera saw nothing' },
      booted: { slot: 'A', release: { counter: 1, version: '1.0.0' } },
      inventory: { cpu: 'arm64' },
    });
    const shown = await said('device', 'show', id.slice(-10));
    for (const part of [id, 'hill', 'failed', 'the camera saw nothing', '1.0.0 (1) in slot A', 'arm64'])
      expect(shown).toContain(part);
    expect(await said('device', 'list', '--state', 'failed', '--tag', 'ring=early')).toContain(id);
    expect(await said('device', 'list', '--state', 'idle')).not.toContain(id);
    expect(await said('device', 'list', '--version', '1.0.0', '--silent-for', '0s')).toContain(id);
    expect(await said('device', 'list', '--silent-for', '1h')).not.toContain(id);
    const first = await testbed.json('sitecast', ['device', 'list', '--limit', '1']);
    expect(first).toMatchObject({ devices: { length: 1 } });
    expect(await said('device', 'revoke', id)).toContain('revoked');
    expect((await device.report({})).status).toBe(403);
    expect(await refused('device', 'show', 'nobody')).toEqual({
      exitCode: 3,
      code: 'SITECAST_DEVICE_UNKNOWN',
    });
  });

  it('shows devices by name, accepts names in place of ids, and asks before a device takes the name of another', async () => {
    const token = await said(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'quay',
      '--uses',
      '9',
    );
    const [old, other, anew] = [new Speaker(), new Speaker(), new Speaker()];
    const [oldId, newId] = [old.identity.id, anew.identity.id];
    await old.enrol(token, 'quay-10');
    await other.enrol(token, 'quay-9');
    expect(await said('device', 'list', '--site', 'quay')).toMatch(/^DEVICE .*\nquay-9 .*\nquay-10 /);
    expect(await said('device', 'show', 'QUAY-10')).toMatch(new RegExp(`^device +quay-10\nid +${oldId}\n`));
    expect(await said('device', 'tag', 'quay-10', 'ring=early')).toMatch(/^quay-10 /);
    expect(await said('device', 'name', 'quay-9', 'quay-8')).toContain(`${other.identity.id} is quay-8`);
    expect(await refused('device', 'name', 'quay-8', 'quay-10')).toEqual({
      exitCode: 3,
      code: 'SITECAST_NAME_TAKEN',
    });
    expect(await said('audit', '--of', 'device:quay-8', '--action', 'device.change')).toContain(
      'device:quay-8',
    );

    expect((await anew.enrol(token, 'quay-10')).status).toBe(202);
    const waiting = await testbed.run('sitecast', ['device', 'list', '--pending']);
    expect(waiting.stdout).toMatch(new RegExp(`\n${newId} +quay-10 `));
    expect(waiting.stderr).toContain(`quay-10 is already the name of device ${oldId} (last heard `);
    // A requested name doesn't identify a device.
    expect(await refused('device', 'accept', 'quay-10')).toMatchObject({ code: 'SITECAST_DEVICE_UNKNOWN' });
    expect(await refused('device', 'accept', newId)).toEqual({ exitCode: 3, code: 'SITECAST_NAME_TAKEN' });
    // It enrolled a moment ago, so it may be at work.
    expect(await refused('device', 'accept', newId, '--replace')).toEqual({
      exitCode: 3,
      code: 'SITECAST_BEARER_HEARD',
    });
    const accepted = await said('device', 'accept', newId.slice(-12), '--replace', '--yes');
    expect(accepted).toBe(`quay-10 (${newId}) is in, at the site quay\n`);
    expect(await testbed.json('sitecast', ['device', 'show', 'quay-10'])).toMatchObject({
      id: newId,
      tags: { ring: 'early' },
    });
    expect(await testbed.json('sitecast', ['device', 'show', oldId])).toMatchObject({ state: 'revoked' });

    const single = await said(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'quay',
      '--name',
      'kept',
    );
    await new Speaker().enrol(single, 'wished');
    expect(await said('device', 'revoke', 'kept')).toMatch(/^kept \(12D3\w+\) is revoked/);
    // The name of one device is the end of another's id, so the word is ambiguous.
    await new Speaker().enrol(token, oldId.slice(-9));
    expect(await refused('device', 'show', oldId.slice(-9))).toEqual({
      exitCode: 2,
      code: 'SITECAST_ID_AMBIGUOUS',
    });
  });

  it('rolls out, watches until all devices are done, and exits by the outcome', async () => {
    const token = await said(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'pole',
      '--uses',
      '2',
    );
    const [good, bad] = [new Speaker(), new Speaker()];
    for (const device of [good, bad]) expect((await device.enrol(token)).status).toBe(200);
    expect(await refused('rollout', 'start', 'camera', '1.0.0', '--stages', '50,100')).toEqual({
      exitCode: 2,
      code: 'SITECAST_ALL_AT_ONCE_NEEDED',
    });
    const start = ['rollout', 'start', 'camera', '1.0.0', '--all-at-once', '--site', 'pole'];
    const { id } = await testbed.json('sitecast', start);
    expect(await refused(...start)).toEqual({ exitCode: 3, code: 'SITECAST_ROLLOUT_OVERLAPS' });
    const watching = testbed.run('sitecast', ['rollout', 'status', '--watch']);
    const rollout = { id: String(id), attempt: 1 };
    await good.report({ rollout, state: 'downloading' });
    await good.report({ rollout, state: 'completed' });
    await bad.report({ rollout, state: 'failed', reason: { code: 'healthFailed', message: 'no picture' } });
    const watched = await watching;
    expect(watched.exitCode).toBe(1);
    expect(watched.stdout).toContain('1 of 2 completed, 1 failed');
    expect(watched.stdout).toContain('no picture');
    expect(await said('rollout', 'abort', String(id).slice(0, 6))).toContain('aborted');

    const { id: again } = await testbed.json('sitecast', start);
    for (const device of [good, bad])
      await device.report({ rollout: { id: String(again), attempt: 1 }, state: 'completed' });
    const { exitCode } = await testbed.run('sitecast', [
      'rollout',
      'status',
      String(again),
      '--watch',
      '--json',
    ]);
    expect(exitCode).toBe(0);
    // All devices are done. The rollout completes a moment later.
    await testbed.until(async () => /completed[^]*aborted/.test(await said('rollout', 'list', 'camera')));
  });

  it('starts a rollout from a file, after a dry run, and steers it; a repeated command has no further effect', async () => {
    const token = await said(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'mast',
      '--uses',
      '9',
    );
    const devices = Array.from({ length: 4 }, () => new Speaker());
    for (const [at, device] of devices.entries())
      expect((await device.enrol(token, `mast-${at}`)).status).toBe(200);
    await writeFile(
      testbed.path('rollout.yaml'),
      'product: camera\nversion: 1.0.0\nstages: [10, 50, 100]\nsoak: [1h, 2h, 0s]\nsite: [mast, hut]\nallow-unknown: true\non-failure: pause\n',
    );
    const start = ['rollout', 'start', '--file', 'rollout.yaml', '--canary-device', 'mast-0'];
    expect(await refused(...start)).toEqual({ exitCode: 2, code: 'SITECAST_OPTION_CONFLICT' });
    start.push('--soak', '1h');
    const dry = await testbed.json('sitecast', [...start, '--dry-run']);
    expect(dry).toMatchObject({ total: 4, stages: [{ count: 1 }, { count: 0 }, { count: 1 }, { count: 2 }] });
    expect(await said(...start, '--dry-run')).toMatch(/stage 1, canaries: 1 device more[^\n]*\n {2}mast-0\n/);
    const { id } = await testbed.json('sitecast', [...start, '--id', String(dry.id)]);
    expect(id).toBe(dry.id);
    const steered = async (act: string, ...more: string[]) => {
      const { exitCode, stdout, stderr } = await testbed.run('sitecast', [
        'rollout',
        act,
        String(id),
        ...more,
      ]);
      expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
      return stdout + stderr;
    };
    expect(await steered('pause')).toMatch(/is paused[^]*touches 1 device \(those/);
    expect(await steered('pause')).not.toContain('touches');
    expect(await steered('resume')).toContain('is active');
    await devices[0]?.report({
      rollout: { id: String(id), attempt: 1 },
      state: 'failed',
      reason: { code: 'healthFailed', message: 'no picture' },
    });
    await testbed.until(async () =>
      (await said('rollout', 'status', String(id))).includes('paused by origin'),
    );
    const status = await said('rollout', 'status', String(id));
    for (const part of ['now canaries', 'healthFailed  rpi4      1', '1 failed', 'no picture'])
      expect(status).toContain(part);
    expect(status).toMatch(/on mast-0: no picture[^]*\nmast-0 +mast +failed/);
    for (const { identity } of devices) expect(status).not.toContain(identity.id);
    expect(await refused('rollout', 'resume', String(id))).toMatchObject({
      code: 'SITECAST_ACKNOWLEDGE_NEEDED',
    });
    expect(await steered('retry', '--yes')).toContain('in attempt 2');
    expect(await steered('advance')).toContain('in stage 2 of 4');
    expect(await steered('rollback')).toContain('rollingBack');
    expect(await steered('abort')).toContain('aborted');
    expect(await refused('rollout', 'resume', String(id))).toEqual({
      exitCode: 3,
      code: 'SITECAST_ROLLOUT_ENDED',
    });
  });

  it.each(['rollout', 'device', 'gateway', 'token'])('explains %s', async group => {
    expect(await said(group, '--help')).toContain('Commands:');
  });
});

it('loses no report and starts no rollout twice, however often the origin is killed', async () => {
  const token = await said('token', 'create', '--join', '--kind', 'device', '--site', 'dark', '--uses', '9');
  const devices = Array.from({ length: 3 }, () => new Speaker());
  for (const device of devices) await device.enrol(token);
  const address = new URL(origin.url).host;
  const { id } = await testbed.json('sitecast', [
    'rollout',
    'start',
    'camera',
    '1.0.0',
    '--all-at-once',
    '--site',
    'dark',
  ]);
  const rollout = { id: String(id), attempt: 1 };
  let sent = 0;
  for (let round = 0; round < 4; round += 1) {
    const batches: object[][] = [];
    for (const device of devices) {
      const first = await device.next({ rollout, state: 'downloading' });
      batches.push([first, await device.next({ rollout, state: 'verifying' })]);
    }
    sent += 2;
    // The origin is killed while it handles them. A device without an answer sends again below.
    const sending = devices.map((device, at) =>
      device.post('/site/v1/reports', { reports: batches[at] }).catch(() => undefined),
    );
    await Promise.race(sending);
    await origin.stop('SIGKILL');
    await Promise.all(sending);
    origin = await startOrigin(address);
    for (const [at, device] of devices.entries()) {
      const again = await device.post('/site/v1/reports', { reports: batches[at] });
      expect(again).toMatchObject({ status: 200, body: { rejected: [] } });
    }
  }
  for (const device of devices) {
    const shown = await testbed.json('sitecast', ['device', 'show', device.identity.id]);
    expect(shown).toMatchObject({ chains: [{ seq: sent }], anomalies: [], reports: { length: sent } });
  }
  const { rollouts } = await testbed.json('sitecast', ['rollout', 'list']);
  expect(Array.isArray(rollouts) && rollouts.filter(found => found.id === id)).toMatchObject([
    { state: 'active' },
  ]);
});
