import { MAX_ROLLOUTS, parseRollouts, type RolloutsFile } from '@sitecast/shared/fleet';
import { MemoryMetadataStore, TufClient } from '@sitecast/shared/trust';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { outcomeAfter } from '../fleet/outcome.ts';
import { canOverlap, type Match } from './match.ts';

let harness: FleetHarness;
beforeEach(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterEach(() => harness.close());

/** The product's rollouts as a device gets them: through a client that verifies everything. */
async function asSigned(): Promise<RolloutsFile> {
  const fetchFrom = (folder: string) => ({
    fetch: async (name: string) => {
      const response = await harness.ask(`/${folder}/${name}`);
      return response.status === 200 ? Buffer.from(await response.arrayBuffer()) : undefined;
    },
  });
  const store = new MemoryMetadataStore();
  const root = await fetchFrom('metadata').fetch('1.root.json');
  if (!root) throw new Error('no root');
  await TufClient.init(store, root, harness.clock.nowMs);
  const client = await TufClient.open({
    store,
    fetcher: fetchFrom('metadata'),
    targetFetcher: fetchFrom('targets'),
    now: harness.clock.now,
  });
  await client.refresh();
  const target = await client.findTarget('rollouts/camera.json');
  if (!target) throw new Error('no rollouts');
  return parseRollouts(await client.fetchTarget(target));
}

const status = (id: unknown) => harness.call('GET', `/api/v1/rollouts/${String(id)}`);
const end = (id: unknown, how: string) => harness.call('POST', `/api/v1/rollouts/${String(id)}/${how}`);

function reporter(id: unknown, counter = 1, attempt = 1) {
  const release = { counter, version: `${counter}.0.0` };
  return (device: TestMember, state: 'downloading' | 'completed' | 'failed') =>
    device.report({
      state,
      rollout: { id: String(id), attempt },
      release,
      ...(state === 'completed' && { booted: { slot: 'B' as const, release } }),
      ...(state === 'failed' && { reason: { code: 'healthFailed', message: 'exit code 1' } }),
    });
}

describe('starting', () => {
  it('publishes a signed order that devices can check, for the hardware of the release', async () => {
    const started = await harness.startRollout();
    expect(started).toMatchObject({ httpStatus: 201, state: 'active', startedBy: 'test' });
    const { rollouts, revoked } = await asSigned();
    expect(revoked).toEqual([]);
    expect(rollouts).toMatchObject([
      {
        id: started.id,
        release: { counter: 1, version: '1.0.0', manifestSha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
        state: 'active',
        match: { hardware: ['rpi4'] },
        cohort: { below: null },
        attempt: 1,
      },
    ]);
    expect(await harness.startRollout({ counter: undefined, version: '1.0.0' })).toMatchObject({
      code: 'SITECAST_ROLLOUT_OVERLAPS',
      data: { rollout: started.id },
    });
  });

  it('reports how many devices it reaches, by site and tag', async () => {
    const [north, early] = [await harness.device('north'), await harness.device('north')];
    await harness.device('south');
    await harness.call('PATCH', `/api/v1/devices/${early.id}`, { tags: { ring: 'early' } });
    const started = await harness.startRollout({ match: { sites: ['north'], tags: { ring: 'early' } } });
    expect(started).toMatchObject({ total: 1, match: { sites: ['north'], tags: { ring: 'early' } } });
    expect(await harness.startRollout({ match: { sites: ['south'] } })).toMatchObject({ total: 1 });
    expect(await status(started.id)).toMatchObject({ devices: [{ id: early.id, state: 'pending' }] });
    await harness.call('PATCH', `/api/v1/devices/${north.id}`, { tags: { ring: 'early' } });
    expect(await status(started.id)).toMatchObject({ total: 2 });
  });

  it.each([
    ['an unknown product', { product: 'toaster' }, 404, 'SITECAST_PRODUCT_UNKNOWN'],
    ['an unknown counter', { counter: 9 }, 404, 'SITECAST_RELEASE_UNKNOWN'],
    ['an unknown version', { counter: undefined, version: '9.0' }, 404, 'SITECAST_RELEASE_UNKNOWN'],
    ['neither version nor counter', { counter: undefined }, 400, 'SITECAST_REQUEST_INVALID'],
    ['both', { version: '1.0.0' }, 400, 'SITECAST_REQUEST_INVALID'],
    ['other hardware', { match: { hardware: ['rpi4', 'rpi5'] } }, 400, 'SITECAST_HARDWARE_UNFIT'],
    ['stages of nobody', { allAtOnce: false }, 409, 'SITECAST_NOBODY_MATCHES'],
    [
      'a first stage beyond 10 %',
      { allAtOnce: false, stages: [{ basisPoints: 1001 }, { basisPoints: 10_000 }] },
      400,
      'SITECAST_ALL_AT_ONCE_NEEDED',
    ],
    ['stages that end early', { stages: [{ basisPoints: 100 }] }, 400, 'SITECAST_ROLLOUT_INVALID'],
    [
      'stages that shrink',
      { stages: [{ basisPoints: 500 }, { basisPoints: 100 }, { basisPoints: 10_000 }] },
      400,
      'SITECAST_ROLLOUT_INVALID',
    ],
    [
      'a canary stage without canaries',
      { stages: [{ basisPoints: 0 }, { basisPoints: 10_000 }] },
      400,
      'SITECAST_ROLLOUT_INVALID',
    ],
    ['a window nobody can read', { window: 'at night' }, 400, 'SITECAST_WINDOW_INVALID'],
    ['a download in no window', { download: 'window' }, 400, 'SITECAST_ROLLOUT_INVALID'],
    [
      'an origin that is no release',
      { match: { fromVersion: { min: '0.9' } } },
      404,
      'SITECAST_RELEASE_UNKNOWN',
    ],
    ['no hardware at all', { match: { hardware: [] } }, 400, 'SITECAST_REQUEST_INVALID'],
    ['a strange site', { match: { sites: ['../x'] } }, 400, 'SITECAST_REQUEST_INVALID'],
    ['what it does not know', { match: { colour: 'red' } }, 400, 'SITECAST_REQUEST_INVALID'],
  ])('refuses %s', async (_what, wanted, httpStatus, code) => {
    const versions = harness.origin.repository.versions();
    expect(await harness.startRollout(wanted)).toMatchObject({ httpStatus, code });
    expect(await harness.call('GET', '/api/v1/rollouts')).toMatchObject({ rollouts: [] });
    expect(harness.origin.repository.versions()).toEqual(versions);
  });

  it('refuses a release below the floor', async () => {
    await harness.publishNext();
    harness.operator.next();
    const file = harness.operator.products.get('camera');
    if (!file) throw new Error('no camera');
    harness.operator.setProduct({ ...file, floor: { counter: 2 } });
    await harness.operator.uploadFiles();
    expect(await harness.operator.submit()).toMatchObject({ httpStatus: 200 });
    expect(await harness.startRollout()).toMatchObject({
      httpStatus: 409,
      code: 'SITECAST_RELEASE_BELOW_FLOOR',
    });
    expect(await harness.startRollout({ counter: 2 })).toMatchObject({ httpStatus: 201 });
  });

  it('installs an older release only with consent', async () => {
    const device = await harness.device();
    await harness.publishNext();
    const { id } = await harness.startRollout({ counter: 2 });
    await reporter(id, 2)(device, 'completed');
    await harness.origin.rollouts.checkCompletion();
    expect(await harness.startRollout()).toMatchObject({
      httpStatus: 409,
      code: 'SITECAST_DOWNGRADE_REFUSED',
      data: { counter: 1, newest: 2, devices: 1 },
    });
    expect(await harness.startRollout({ allowDowngrade: true })).toMatchObject({ httpStatus: 201, total: 1 });
  });

  it('with a name that no device has is refused, with the nearest name, unless the operator consents', async () => {
    const device = await harness.device('north');
    await harness.gateway('south');
    await harness.call('PATCH', `/api/v1/devices/${device.id}`, { tags: { ring: 'early' } });
    expect(await harness.startRollout({ match: { sites: ['nroth'] } })).toMatchObject({
      httpStatus: 404,
      code: 'SITECAST_MATCH_UNKNOWN',
      detail: 'nobody in the fleet has the site nroth (is it north?)',
      hint: expect.stringContaining('--allow-unknown'),
      data: { nearest: 'north', unknown: [{ what: 'site', name: 'nroth', nearest: 'north' }] },
    });
    const slips = { sites: ['north', 'moon'], tags: { ring: 'erly' } };
    expect(await harness.startRollout({ match: slips, dryRun: true })).toMatchObject({
      code: 'SITECAST_MATCH_UNKNOWN',
      data: { unknown: [{ name: 'moon' }, { what: 'tag', name: 'ring=erly', nearest: 'ring=early' }] },
    });
    expect(await harness.startRollout({ match: { hardware: ['rpi'] } })).toMatchObject({
      code: 'SITECAST_HARDWARE_UNFIT',
      data: { nearest: 'rpi4' },
    });
    expect(await harness.startRollout({ product: 'camrea' })).toMatchObject({ data: { nearest: 'camera' } });
    expect(await harness.call('GET', '/api/v1/rollouts')).toMatchObject({ rollouts: [] });
    // A gateway's site is known, even if it has no device yet.
    expect(await harness.startRollout({ match: { sites: ['south'] } })).toMatchObject({
      httpStatus: 201,
      total: 0,
    });
    expect(await harness.startRollout({ match: { sites: ['moon'] }, allowUnknown: true })).toMatchObject({
      httpStatus: 201,
    });
  });

  it('with a first stage of more than a tenth of the devices needs consent; one device of five counts as a tenth', async () => {
    for (let at = 0; at < 5; at += 1) await harness.device();
    const of = (...shares: number[]) => ({
      allAtOnce: false,
      stages: shares.map(basisPoints => ({ basisPoints })),
    });
    expect(await harness.startRollout(of(2100, 10_000))).toMatchObject({
      httpStatus: 400,
      code: 'SITECAST_ALL_AT_ONCE_NEEDED',
      data: { reach: 2, devices: 5 },
    });
    expect(await harness.startRollout(of(10_000))).toMatchObject({ code: 'SITECAST_ALL_AT_ONCE_NEEDED' });
    expect(await harness.startRollout(of(2000, 6000, 10_000))).toMatchObject({
      httpStatus: 201,
      total: 1,
      matching: 5,
    });
  });

  it('can be dry-run while another rollout is under way: the answer names that one', async () => {
    await harness.device();
    const { id } = await harness.startRollout();
    const dry = await harness.startRollout({ dryRun: true });
    expect(dry).toMatchObject({
      httpStatus: 200,
      total: 1,
      blockedBy: { rollout: id, version: '1.0.0', state: 'active' },
    });
    expect(await harness.startRollout({ id: dry.id })).toMatchObject({ code: 'SITECAST_ROLLOUT_OVERLAPS' });
    await end(id, 'abort');
    expect(await harness.startRollout({ dryRun: true })).not.toHaveProperty('blockedBy');
    expect(await harness.startRollout({ id: dry.id })).toMatchObject({ httpStatus: 201, id: dry.id });
  });

  it('needs an operator', async () => {
    const { token } = await harness.origin.tokens.create({ name: 'looker', role: 'viewer' });
    const response = await harness.ask('/api/v1/rollouts', {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: '{}',
    });
    expect(response.status).toBe(403);
  });
});

describe('a rollout', () => {
  it('shows how far each device is, and completes when all have succeeded', async () => {
    const [one, other] = [await harness.device(), await harness.device()];
    const { id } = await harness.startRollout();
    const report = reporter(id);
    await report(one, 'downloading');
    const at = new Date(harness.clock.nowMs).toISOString();
    await one.post('/site/v1/progress', {
      progress: [{ id: one.id, rollout: id, state: 'downloading', doneBytes: 5, totalBytes: 10, at }],
    });
    expect(await status(id)).toMatchObject({
      counts: { downloading: 1, pending: 1 },
      devices: expect.arrayContaining([
        { id: one.id, site: 'north', state: 'downloading', at, progress: { doneBytes: 5, totalBytes: 10 } },
        { id: other.id, site: 'north', state: 'pending' },
      ]),
    });
    await report(one, 'completed');
    await harness.origin.rollouts.checkCompletion();
    expect(await status(id)).toMatchObject({ state: 'active', counts: { completed: 1, pending: 1 } });
    await report(other, 'completed');
    await harness.origin.rollouts.checkCompletion();
    expect(await status(id)).toMatchObject({ state: 'completed', counts: { completed: 2 } });
    expect((await asSigned()).rollouts).toMatchObject([{ id, state: 'completed' }]);
    const latecomer = await harness.device();
    expect(await status(id)).toMatchObject({ counts: { completed: 2, pending: 1 } });
    await report(latecomer, 'completed');
    expect(await status(id)).toMatchObject({ counts: { completed: 3 } });
  });

  it('on which a device failed stays open: its release is no baseline', async () => {
    const [one, other] = [await harness.device(), await harness.device()];
    const { id } = await harness.startRollout();
    await reporter(id)(one, 'completed');
    await reporter(id)(other, 'failed');
    await harness.origin.rollouts.checkCompletion();
    expect(await status(id)).toMatchObject({
      state: 'paused',
      counts: { completed: 1, failed: 1 },
      devices: expect.arrayContaining([
        expect.objectContaining({ id: other.id, reason: { code: 'healthFailed', message: 'exit code 1' } }),
      ]),
    });
    expect(await end(id, 'complete')).toMatchObject({
      state: 'completed',
      changes: [{}, { by: 'origin' }, { by: 'test' }],
    });
    expect(await end(id, 'complete')).toMatchObject({ httpStatus: 200 });
  });

  it('counts reports of its newest attempt only', () => {
    const report = (attempt: number, state: 'completed' | 'failed') => ({
      format: 'sitecast-report-1' as const,
      id: harness.member().id,
      epoch: 'e'.repeat(16),
      seq: 1,
      previous: null,
      at: '2030-01-01T00:00:00Z',
      timestampVersion: 1,
      rollout: { id: 'a'.repeat(16), attempt },
      state,
    });
    const failed = outcomeAfter(undefined, report(1, 'failed'), '2030-01-01T00:00:01Z');
    const again = outcomeAfter(failed, report(2, 'completed'), '2030-01-01T00:00:02Z');
    expect(again).toMatchObject({ attempt: 2, state: 'completed', startedAt: '2030-01-01T00:00:02Z' });
    expect(outcomeAfter(again, report(1, 'failed'), '2030-01-01T00:00:03Z')).toBeUndefined();
  });

  it('is done on devices that run the release already, and does not wait for revoked devices', async () => {
    const [one, dead] = [await harness.device(), await harness.device()];
    await one.report({ booted: { slot: 'A', release: { counter: 1, version: '1.0.0' } } });
    const { id } = await harness.startRollout();
    expect(await status(id)).toMatchObject({ counts: { completed: 1, pending: 1 } });
    await harness.call('POST', `/api/v1/devices/${dead.id}/revoke`);
    await harness.origin.rollouts.reconcile();
    expect(await status(id)).toMatchObject({ state: 'completed', total: 1 });
  });

  it('that is aborted stays so, shows its outcome, and makes way for the next', async () => {
    const [device] = [await harness.device(), await harness.device()];
    const { id } = await harness.startRollout();
    await reporter(id)(device, 'failed');
    expect(await end(id, 'abort')).toMatchObject({ httpStatus: 200, state: 'aborted' });
    expect(await end(id, 'abort')).toMatchObject({ httpStatus: 200, state: 'aborted' });
    expect(await end(id, 'complete')).toMatchObject({ httpStatus: 409, code: 'SITECAST_ROLLOUT_ENDED' });
    expect((await asSigned()).rollouts).toMatchObject([{ id, state: 'aborted' }]);
    expect(await status(id)).toMatchObject({ total: 1, counts: { failed: 1 } });
    expect(await harness.startRollout()).toMatchObject({ httpStatus: 201 });
    expect(await end('0123456789abcdef', 'abort')).toMatchObject({ code: 'SITECAST_ROLLOUT_UNKNOWN' });
  });

  it('is shown page by page, and by state', async () => {
    const devices = await Promise.all(Array.from({ length: 5 }, () => harness.device()));
    const { id } = await harness.startRollout();
    const seen: string[] = [];
    let cursor = '';
    do {
      const page = await harness.call('GET', `/api/v1/rollouts/${String(id)}?limit=2${cursor}`);
      const list: { id: string }[] = Array.isArray(page.devices) ? page.devices : [];
      seen.push(...list.map(device => device.id));
      cursor = typeof page.nextCursor === 'string' ? `&cursor=${page.nextCursor}` : '';
      expect(page).toMatchObject({ total: 5, counts: { pending: 5 } });
    } while (cursor !== '');
    expect(seen).toEqual(devices.map(device => device.id).sort());
    expect(await harness.call('GET', `/api/v1/rollouts/${String(id)}?state=failed`)).toMatchObject({
      devices: [],
    });
  });

  it('survives a restart, with all its reports', async () => {
    const [device] = [await harness.device(), await harness.device()];
    const { id } = await harness.startRollout();
    await reporter(id)(device, 'completed');
    const before = await status(id);
    await harness.restart();
    expect(await status(id)).toEqual(before);
  });
});

it('keeps as many rollouts in the signed file as clients accept, the newest completed one among them', async () => {
  const { id: first } = await harness.startRollout();
  await end(first, 'complete');
  const { id: baseline } = await harness.startRollout();
  await end(baseline, 'complete');
  // The file that many rollouts would have left.
  const file = await asSigned();
  const aborted = Array.from({ length: MAX_ROLLOUTS - 3 }, (_, at) => ({
    ...parseRollouts(Buffer.from(JSON.stringify(file))).rollouts[0],
    id: at.toString(16).padStart(16, '0'),
    state: 'aborted',
  }));
  const rollouts = [...file.rollouts, ...aborted];
  const bytes = Buffer.from(JSON.stringify({ ...file, rollouts }));
  await harness.origin.repository.publishRollouts(new Map([['rollouts/camera.json', bytes]]));
  await harness.restart();

  const { id: last } = await harness.startRollout();
  expect((await asSigned()).rollouts.map(({ id }) => id)).toEqual([...rollouts.map(({ id }) => id), last]);
  await end(last, 'abort');
  const { id: next } = await harness.startRollout();
  const kept = (await asSigned()).rollouts.map(({ id }) => id);
  expect(kept).toHaveLength(MAX_ROLLOUTS);
  expect(kept).toEqual([first, baseline, ...aborted.slice(1).map(({ id }) => id), last, next]);
  await harness.restart();
  expect(await status('0'.repeat(16))).toMatchObject({ state: 'aborted' });
  expect(await end('0'.repeat(16), 'complete')).toMatchObject({ code: 'SITECAST_ROLLOUT_ENDED' });
});

describe('revoking', () => {
  it('is published for the product of a device, and everywhere for a gateway', async () => {
    const [device, gateway] = [await harness.device(), await harness.gateway()];
    await harness.call('POST', `/api/v1/devices/${device.id}/revoke`);
    expect((await asSigned()).revoked).toEqual([device.id]);
    harness.clock.passHours(1);
    await harness.call('POST', `/api/v1/gateways/${gateway.id}/revoke`);
    expect((await asSigned()).revoked).toEqual([device.id, gateway.id]);
    await harness.startRollout();
    expect((await asSigned()).revoked).toEqual([device.id, gateway.id]);
  });

  it('of another product’s device does not change this product’s file', async () => {
    const device = harness.member();
    await device.enrol(await harness.joinToken({ site: 'north' }), { product: 'doorbell' });
    await harness.call('POST', `/api/v1/devices/${device.id}/revoke`);
    await harness.startRollout();
    expect((await asSigned()).revoked).toEqual([]);
  });
});

describe('two matches', () => {
  const cases: [string, Match, Match, boolean][] = [
    ['without bounds', {}, {}, true],
    ['of hardware in common', { hardware: ['a', 'b'] }, { hardware: ['b'] }, true],
    ['of other hardware', { hardware: ['a'] }, { hardware: ['b'] }, false],
    ['of other sites', { sites: ['n'] }, { sites: ['s'] }, false],
    ['of which one names a site', { sites: ['n'] }, {}, true],
    ['of other tags', { tags: { a: '1' } }, { tags: { b: '1' } }, true],
    ['of another value of one tag', { tags: { a: '1' } }, { tags: { a: '2' } }, false],
    [
      'from ranges that touch',
      { fromCounter: { min: 0, max: 3 } },
      { fromCounter: { min: 3, max: 9 } },
      true,
    ],
    ['from ranges apart', { fromCounter: { min: 0, max: 2 } }, { fromCounter: { min: 3, max: 9 } }, false],
  ];
  it.each(cases)('%s: can one device match both?', (_what, one, other, expected) => {
    expect(canOverlap(one, other)).toBe(expected);
    expect(canOverlap(other, one)).toBe(expected);
  });
});
