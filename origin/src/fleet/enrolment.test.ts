import { parseJoinToken } from '@sitecast/shared/fleet';
import { withOnlineDelegatedKey } from '@sitecast/shared/signing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { assignmentIn } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MAX_PENDING_DIRECT, MAX_PENDING_RELAYED, PENDING_TTL_MS, PendingMembers } from './pending.ts';

let harness: FleetHarness;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterAll(() => harness.close());

const refusal = (status: number, code: string) => ({ status, body: expect.objectContaining({ code }) });

async function used(token: string): Promise<unknown> {
  const { joinTokens } = await harness.call('GET', '/api/v1/join-tokens');
  const { keyId } = parseJoinToken(token).pair;
  if (!Array.isArray(joinTokens)) throw new Error('no list');
  return joinTokens.find(({ id }: { id: string }) => id === keyId)?.used;
}

describe('a join token', () => {
  it('enrols a device through its gateway, whose site becomes the device’s', async () => {
    const gateway = await harness.gateway('south');
    const device = harness.member();
    const answer = await device.enrol(await harness.joinToken(), {}, gateway);
    expect(assignmentIn(answer, harness.signers)).toMatchObject({
      id: device.id,
      kind: 'device',
      product: 'camera',
      hardware: 'rpi4',
      site: 'south',
      tags: {},
      serial: 1,
    });
    expect((await device.get(`/site/v1/assignments/${device.id}`)).body).toEqual(answer.body);
  });

  it('may name the site, which then overrides the gateway’s', async () => {
    const device = harness.member();
    const answer = await device.enrol(
      await harness.joinToken({ site: 'east' }),
      {},
      await harness.gateway('south'),
    );
    expect(assignmentIn(answer, harness.signers).site).toBe('east');
  });

  it('is used once by one device however often it sends its request, and never beyond its uses', async () => {
    const token = await harness.joinToken({ uses: 2, site: 'north' });
    const [first, second, third] = [harness.member(), harness.member(), harness.member()];
    const envelope = await first.sealEnrolment(token);
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => first.post('/site/v1/enrolments', { envelope })),
    );
    for (const answer of answers) expect(answer).toMatchObject({ status: 200, body: answers[0]?.body });
    expect(await used(token)).toBe(1);
    expect(await second.enrol(token)).toMatchObject({ status: 200 });
    expect(await third.enrol(token)).toMatchObject(refusal(403, 'SITECAST_JOIN_TOKEN_USED_UP'));
    expect(await first.enrol(token)).toMatchObject({ status: 200 });
    expect(await used(token)).toBe(2);
  });

  it('enrols exactly as many as it allows when they all come at once', async () => {
    const token = await harness.joinToken({ uses: 3, site: 'north' });
    const answers = await Promise.all(Array.from({ length: 8 }, () => harness.member().enrol(token)));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(3);
    expect(await used(token)).toBe(3);
  });

  it('is not used by devices that could not be stored', async () => {
    const token = await harness.joinToken({ uses: 3, site: 'north' });
    const devices = [harness.member(), harness.member()];
    const commit = harness.store.commit.bind(harness.store);
    harness.store.commit = () => Promise.reject(new Error('disk full'));
    for (const answer of await Promise.all(devices.map(device => device.enrol(token))))
      expect(answer).toMatchObject({ status: 500 });
    harness.store.commit = commit;
    expect(await used(token)).toBe(0);
    expect(harness.origin.fleet.registry.member(devices[0]?.id ?? '')).toBeUndefined();
    for (const device of devices) expect(await device.enrol(token)).toMatchObject({ status: 200 });
    expect(await used(token)).toBe(2);
  });

  it('that is deleted during an enrolment stays deleted', async () => {
    const token = await harness.joinToken({ uses: 9, site: 'north' });
    const { keyId } = parseJoinToken(token).pair;
    const gone = harness.call('DELETE', `/api/v1/join-tokens/${keyId}`);
    await Promise.all([harness.member().enrol(token), gone, harness.member().enrol(token)]);
    expect(await used(token)).toBeUndefined();
    expect(await harness.store.get('joinToken', keyId)).toBeUndefined();
  });

  it.each([
    ['product', { product: 'doorbell' }],
    ['hardware', { hardware: 'rpi5' }],
    ['kind', { kind: 'gateway' }],
  ])('for another %s is refused, and not used', async (_what, bound) => {
    const token = await harness.joinToken({ site: 'north', ...bound });
    expect(await harness.member().enrol(token)).toMatchObject(refusal(403, 'SITECAST_JOIN_TOKEN_MISMATCH'));
    expect(await used(token)).toBe(0);
  });

  it('of a gateway is bound to its site', async () => {
    const token = await harness.joinToken({ kind: 'gateway', site: 'north', uses: 2 });
    const [right, wrong] = [harness.member('gateway'), harness.member('gateway')];
    expect(await wrong.enrol(token, { site: 'south' })).toMatchObject(
      refusal(403, 'SITECAST_JOIN_TOKEN_MISMATCH'),
    );
    expect(assignmentIn(await right.enrol(token), harness.signers).site).toBe('north');
  });

  it('is refused once it has expired or was deleted, or if it never existed', async () => {
    const expired = await harness.joinToken({ site: 'north' });
    const deleted = await harness.joinToken({ site: 'north', expiresAt: '2031-01-01T00:00:00Z' });
    const { keyId } = parseJoinToken(deleted).pair;
    expect(await harness.call('DELETE', `/api/v1/join-tokens/${keyId}`)).toMatchObject({ httpStatus: 204 });
    harness.clock.passHours(1);
    expect(await harness.member().enrol(expired)).toMatchObject(refusal(403, 'SITECAST_JOIN_TOKEN_EXPIRED'));
    expect(await harness.member().enrol(deleted)).toMatchObject(refusal(403, 'SITECAST_JOIN_TOKEN_UNKNOWN'));
    expect(await harness.call('DELETE', `/api/v1/join-tokens/${keyId}`)).toMatchObject({ httpStatus: 404 });
  });

  it('is shown once, and stored without its secret', async () => {
    const token = await harness.joinToken();
    const { seed } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
    expect(parseJoinToken(token)).toMatchObject({ origin: 'https://origin.example' });
    expect(JSON.stringify(await harness.call('GET', '/api/v1/join-tokens'))).not.toContain(seed);
    for await (const [, value] of harness.store.entries('joinToken'))
      expect(JSON.stringify(value)).not.toContain(seed);
  });

  it('is not created already expired, or for more uses than there can be', async () => {
    const make = (wanted: object) =>
      harness.call('POST', '/api/v1/join-tokens', {
        kind: 'device',
        origin: 'https://o',
        expiresAt: '2031-01-01T00:00:00Z',
        ...wanted,
      });
    expect(await make({ expiresAt: '2029-01-01T00:00:00Z' })).toMatchObject({ code: 'SITECAST_EXPIRY_PAST' });
    expect(await make({ uses: 1_000_001 })).toMatchObject({ code: 'SITECAST_REQUEST_INVALID' });
    expect(await make({ origin: 'ftp://o' })).toMatchObject({ code: 'SITECAST_REQUEST_INVALID' });
  });
});

describe('a gateway that relays', () => {
  it('can neither enrol another id nor use the token that it saw', async () => {
    const [gateway, victim, thief] = [await harness.gateway(), harness.member(), harness.member()];
    const token = await harness.joinToken();
    const stolen = await victim.sealEnrolment(token);
    const payload = JSON.parse(Buffer.from(stolen.payload, 'base64').toString());
    const swapped = {
      ...stolen,
      payload: Buffer.from(JSON.stringify({ ...payload, id: thief.id })).toString('base64'),
    };
    expect(await gateway.post('/site/v1/enrolments', { envelope: swapped })).toMatchObject(
      refusal(422, 'SITECAST_DOCUMENT_UNTRUSTED'),
    );
    // Its own request, with the token's key id and the token's signature from the device's request.
    const own = await thief.sealEnrolment(undefined, { token: parseJoinToken(token).pair.keyId });
    const forged = { ...own, signatures: [...own.signatures, ...stolen.signatures.slice(1)] };
    expect(await gateway.post('/site/v1/enrolments', { envelope: forged })).toMatchObject(
      refusal(422, 'SITECAST_DOCUMENT_UNTRUSTED'),
    );
    expect(await used(token)).toBe(0);
    expect(await gateway.post('/site/v1/enrolments', { envelope: stolen })).toMatchObject({ status: 200 });
  });

  it('must be enrolled: strangers and devices can not relay', async () => {
    const envelope = await harness.member().sealEnrolment(await harness.joinToken());
    for (const other of [harness.member(), harness.member('gateway'), await harness.device()]) {
      expect(await other.post('/site/v1/enrolments', { envelope })).toMatchObject(
        refusal(403, 'SITECAST_ENROLMENT_FOREIGN'),
      );
    }
  });
});

describe('a new member', () => {
  it('without a token waits until an operator accepts it, for the site where it was seen', async () => {
    const gateway = await harness.gateway('west');
    const device = harness.member();
    expect(await device.enrol(undefined, {}, gateway)).toMatchObject({
      status: 202,
      body: { state: 'pending' },
    });
    expect(await harness.call('GET', '/api/v1/devices?state=pending')).toMatchObject({
      members: [{ id: device.id, product: 'camera', site: 'west', state: 'pending', via: gateway.id }],
    });
    expect(await device.get(`/site/v1/assignments/${device.id}`)).toMatchObject({ status: 404 });
    expect(await harness.call('POST', `/api/v1/devices/${device.id}/accept`, {})).toMatchObject({
      httpStatus: 200,
      site: 'west',
    });
    expect(assignmentIn(await device.enrol(undefined, {}, gateway), harness.signers).site).toBe('west');
    expect(await harness.call('GET', '/api/v1/devices?state=pending')).toMatchObject({ members: [] });
    // A repetition does no harm. Another site would be another request.
    expect(await harness.call('POST', `/api/v1/devices/${device.id}/accept`, {})).toMatchObject({
      serial: 1,
    });
    expect(await harness.call('POST', `/api/v1/devices/${device.id}/accept`, { site: 'x' })).toMatchObject({
      code: 'SITECAST_NOT_PENDING',
    });
  });

  it('has its first gateway’s site; seen at another site as well, it needs an operator to name the site', async () => {
    const [south, north] = [await harness.gateway('south'), await harness.gateway('north')];
    const device = harness.member();
    const envelope = await device.sealEnrolment();
    for (const gateway of [south, north, south])
      expect(await gateway.post('/site/v1/enrolments', { envelope })).toMatchObject({ status: 202 });
    for (const site of ['south', 'north'])
      expect(await harness.call('GET', `/api/v1/devices?state=pending&site=${site}`)).toMatchObject({
        members: [{ id: device.id, site: 'south', sites: ['south', 'north'], via: south.id }],
      });
    const path = `/api/v1/devices/${device.id}/accept`;
    expect(await harness.call('POST', path, {})).toMatchObject({
      httpStatus: 409,
      code: 'SITECAST_SITE_AMBIGUOUS',
      hint: expect.stringMatching(/--site south or --site north/),
    });
    expect(await harness.call('POST', path, { site: 'south' })).toMatchObject({
      site: 'south',
      state: 'enrolled',
    });
  });

  it('that came directly needs a site, and a gateway may ask for one', async () => {
    const [device, gateway] = [harness.member(), harness.member('gateway')];
    await device.enrol();
    await gateway.enrol(undefined, { site: 'hill' });
    const accept = (path: string, value: object) => harness.call('POST', `/api/v1/${path}/accept`, value);
    expect(await accept(`devices/${device.id}`, {})).toMatchObject({ code: 'SITECAST_SITE_MISSING' });
    expect(await accept(`devices/${device.id}`, { site: 'hill' })).toMatchObject({ site: 'hill' });
    expect(await accept(`devices/${gateway.id}`, {})).toMatchObject({ code: 'SITECAST_NOT_PENDING' });
    expect(await accept(`gateways/${gateway.id}`, {})).toMatchObject({ site: 'hill', kind: 'gateway' });
    expect(await harness.member().enrol(await harness.joinToken())).toMatchObject(
      refusal(400, 'SITECAST_SITE_MISSING'),
    );
  });

  it('must declare its kind, and can not change it', async () => {
    const device = await harness.device();
    expect(await harness.member().enrol(undefined, { hardware: undefined })).toMatchObject(
      refusal(400, 'SITECAST_ENROLMENT_INCOMPLETE'),
    );
    expect(await device.enrol(undefined, { hardware: 'rpi5' })).toMatchObject(
      refusal(409, 'SITECAST_ENROLMENT_CONFLICT'),
    );
  });
});

describe('an assignment', () => {
  it('gets a higher serial with every change of tags and site, and only then', async () => {
    const device = await harness.device();
    const change = (value: object) => harness.call('PATCH', `/api/v1/devices/${device.id}`, value);
    expect(await change({ tags: { ring: 'early' } })).toMatchObject({ serial: 2, tags: { ring: 'early' } });
    expect(await change({ tags: { ring: 'early' }, site: 'north' })).toMatchObject({ serial: 2 });
    expect(await change({ site: 'south' })).toMatchObject({ serial: 3, tags: { ring: 'early' } });
    const now = assignmentIn(await device.get(`/site/v1/assignments/${device.id}`), harness.signers);
    expect(now).toMatchObject({ serial: 3, site: 'south', tags: { ring: 'early' } });
    await harness.restart();
    const after = await device.get(`/site/v1/assignments/${device.id}`);
    expect(assignmentIn(after, harness.signers)).toEqual(now);
  });

  it('is signed again, and otherwise the same, when the rollouts key is rotated', async () => {
    const device = await harness.device();
    const before = await device.get(`/site/v1/assignments/${device.id}`);
    const old = harness.signers;
    const { operator, origin } = harness;
    const key = await origin.repository.prepareKey('rollouts');
    operator.targets = withOnlineDelegatedKey(operator.prepared(), 'rollouts', key, harness.clock.nowMs);
    operator.files.clear();
    const targets = Buffer.from(await operator.signedTargets());
    await origin.repository.submit({ targets });
    expect(harness.signers.keyids).not.toEqual(old.keyids);
    const after = await device.get(`/site/v1/assignments/${device.id}`);
    expect(assignmentIn(after, harness.signers)).toEqual(assignmentIn(before, old));
    expect(() => assignmentIn(before, harness.signers)).toThrow(
      expect.objectContaining({ code: 'SITECAST_DOCUMENT_UNTRUSTED' }),
    );
  });

  it('records that its holder is revoked, who is refused from then on', async () => {
    const [device, gateway] = [await harness.device(), await harness.gateway()];
    for (const [kind, member] of [['devices', device] as const, ['gateways', gateway] as const]) {
      const revoke = () => harness.call('POST', `/api/v1/${kind}/${member.id}/revoke`);
      expect(await revoke()).toMatchObject({ httpStatus: 200, state: 'revoked', serial: 2 });
      expect(await revoke()).toMatchObject({ serial: 2 });
      const assignment = assignmentIn(await member.get(`/site/v1/assignments/${member.id}`), harness.signers);
      expect(assignment).toMatchObject({ revoked: true, serial: 2 });
      const refused = refusal(403, 'SITECAST_DEVICE_REVOKED');
      expect(await member.enrol(await harness.joinToken({ kind: member.kind }))).toMatchObject(refused);
      expect(await member.report()).toMatchObject(refused);
      expect(await member.post('/site/v1/progress', { progress: [] })).toMatchObject(refused);
      expect(await harness.call('PATCH', `/api/v1/${kind}/${member.id}`, { tags: {} })).toMatchObject({
        code: 'SITECAST_DEVICE_REVOKED',
      });
    }
  });
});

describe('waiting members', () => {
  const asking = (id: number, via?: string) => ({
    id: `id-${id}`,
    kind: 'device' as const,
    ...(via !== undefined && { via }),
  });

  it('are bounded, and strangers can not displace those that a gateway brought', () => {
    const pending = new PendingMembers();
    for (let id = 0; id < MAX_PENDING_RELAYED; id += 1) pending.add(asking(id, 'gateway'), id);
    for (let id = 0; id < MAX_PENDING_DIRECT + 50; id += 1) pending.add(asking(10_000 + id), 5000 + id);
    const waiting = pending.list('device', 6000);
    expect(waiting.filter(({ via }) => via !== undefined)).toHaveLength(MAX_PENDING_RELAYED);
    expect(waiting.filter(({ via }) => via === undefined)).toHaveLength(MAX_PENDING_DIRECT);
    pending.add(asking(9999, 'gateway'), 7000);
    expect(pending.get('id-0', 7000)).toBeUndefined();
    expect(pending.get('id-9999', 7000)).toBeDefined();
  });

  it('are not displaced by the flood of another gateway', () => {
    const pending = new PendingMembers();
    pending.add(asking(1, 'honest'), 0);
    for (let id = 2; id < MAX_PENDING_RELAYED + 500; id += 1) pending.add(asking(id, 'stolen'), id);
    expect(pending.get('id-1', 3000)).toMatchObject({ via: 'honest' });
    expect(pending.list('device', 3000)).toHaveLength(MAX_PENDING_RELAYED);
    // The member that asks again is no longer the longest silent one, and an accepted one frees a place.
    pending.add(asking(501, 'stolen'), 3000);
    pending.add(asking(5000, 'honest'), 3001);
    expect(pending.get('id-501', 3001)).toBeDefined();
    expect(pending.get('id-502', 3001)).toBeUndefined();
    pending.remove('id-503');
    pending.add(asking(5001, 'stolen'), 3002);
    expect(pending.get('id-504', 3002)).toBeDefined();
  });

  it('keep their place where an honest gateway and a flooding one have relayed them', () => {
    const pending = new PendingMembers();
    for (let id = 0; id < MAX_PENDING_RELAYED; id += 1) pending.add(asking(id, 'stolen'), id);
    pending.add({ ...asking(500, 'honest'), site: 'south' }, 2000);
    for (let id = 0; id < MAX_PENDING_RELAYED; id += 1) pending.add(asking(10_000 + id, 'stolen'), 3000 + id);
    expect(pending.get('id-500', 5000)).toMatchObject({ via: 'stolen', site: 'south' });
    for (let at = 0; at < 20; at += 1)
      pending.add({ ...asking(500, `gateway-${at}`), site: `site-${at}` }, 5000);
    expect(pending.get('id-500', 5000)?.sites).toHaveLength(8);
  });

  it('are forgotten a day after they stopped asking, and keep the site that a gateway gave them', () => {
    const pending = new PendingMembers();
    pending.add({ ...asking(1, 'gateway'), site: 'north' }, 0);
    pending.add(asking(1), PENDING_TTL_MS - 1);
    expect(pending.get('id-1', 2 * PENDING_TTL_MS - 2)).toMatchObject({ site: 'north', firstAskedMs: 0 });
    expect(pending.get('id-1', 2 * PENDING_TTL_MS - 1)).toBeUndefined();
  });
});
