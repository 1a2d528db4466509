import { MAX_GATEWAY_ADDRESSES, MAX_GATEWAY_URLS, MAX_NAMED_GATEWAYS } from '@sitecast/shared/api';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { ADDRESSES_TTL_MS, GatewayBoard } from '../fleet/gateway-board.ts';
import type { Member } from '../fleet/member.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

let harness: FleetHarness;
beforeEach(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterEach(() => harness.close());

const PATH = '/site/v1/gateways';

const placeOf = ({ id }: { id: string }, host = '192.0.2.1') => ({
  fleet: [`/ip4/${host}/tcp/7402/p2p/${id}`],
  urls: [`http://${host}:7401`],
});
const say = (gateway: TestMember) => gateway.post(PATH, placeOf(gateway));
const idsOf = ({ body }: { body: Record<string, unknown> }): string[] =>
  Array.isArray(body.gateways) ? body.gateways.map(({ id }: { id: string }) => id) : [];

it('names other gateways to a gateway: those of its own site with their URLs, those of other sites without', async () => {
  const [one, two] = [await harness.gateway('north'), await harness.gateway('north')];
  const far = await harness.gateway('south');
  expect(idsOf(await say(one))).toEqual([]);
  await say(far);
  const { status, body } = await say(two);
  expect(status).toBe(200);
  expect(body.gateways).toEqual([
    { id: one.id, site: 'north', ...placeOf(one) },
    { id: far.id, site: 'south', fleet: placeOf(far).fleet, urls: [] },
  ]);
});

it('names no gateway whose addresses are too old, and no revoked one', async () => {
  const [asker, quiet, revoked] = [await harness.gateway(), await harness.gateway(), await harness.gateway()];
  await say(quiet);
  harness.clock.nowMs += ADDRESSES_TTL_MS;
  await say(revoked);
  expect(idsOf(await say(asker)).sort()).toEqual([quiet.id, revoked.id].sort());
  harness.clock.nowMs += 1;
  await harness.call('POST', `/api/v1/gateways/${revoked.id}/revoke`);
  expect(idsOf(await say(asker))).toEqual([]);
});

it('accepts addresses from gateways only, of the right form, and within its bounds', async () => {
  const device = await harness.device();
  expect(await say(device)).toMatchObject({ status: 403, body: { code: 'SITECAST_GATEWAYS_ONLY' } });
  const gateway = await harness.gateway();
  const { fleet, urls } = placeOf(gateway);
  const many = <T>(one: T[], count: number): T[] => Array.from({ length: count }, () => one).flat();
  const most = { fleet: many(fleet, MAX_GATEWAY_ADDRESSES), urls: many(urls, MAX_GATEWAY_URLS) };
  expect(await gateway.post(PATH, most)).toMatchObject({ status: 200 });
  for (const wrong of [
    { fleet: many(fleet, MAX_GATEWAY_ADDRESSES + 1), urls },
    { fleet, urls: many(urls, MAX_GATEWAY_URLS + 1) },
    { fleet: ['/ip4/192.0.2.1/tcp/7402'], urls },
    { fleet: [`/unix/tmp/p2p/${gateway.id}`], urls },
    { fleet, urls: ['http://192.0.2.1/path'] },
    { fleet, urls: ['file:///etc/passwd'] },
    { fleet, urls: ['http://user@192.0.2.1'] },
    { fleet, urls: [`http://${'a'.repeat(200)}`] },
  ])
    expect(await gateway.post(PATH, wrong)).toMatchObject({
      status: 400,
      body: { code: 'SITECAST_REQUEST_INVALID' },
    });
});

it('names a bounded number of gateways, and forgets the oldest of too many', () => {
  const member = (id: number, site: string): Member => ({
    id: `${id}`,
    kind: 'gateway',
    site,
    tags: {},
    serial: 1,
    enrolledAt: '2030-01-01T00:00:00Z',
    changedAt: '2030-01-01T00:00:00Z',
    letInBy: { operator: 'test' },
  });
  const members = Array.from({ length: 101 }, (_, at) => member(at, at < 50 ? 'north' : `site-${at}`));
  const board = new GatewayBoard({ activeMember: id => members[Number(id)] }, () => [], 100);
  for (const one of members) board.put(one, placeOf(one), 0);
  expect(board.size).toBe(100);
  const [asker = member(1, 'north')] = members.slice(1);
  const { gateways } = board.knownTo(asker, 0);
  expect(gateways).toHaveLength(MAX_NAMED_GATEWAYS);
  expect(gateways.some(({ id }) => id === '0' || id === asker.id)).toBe(false);
  expect(new Set(gateways.map(({ id }) => id)).size).toBe(MAX_NAMED_GATEWAYS);
});
