import { array, assert, boolean, constantFrom, oneof, property, record } from 'fast-check';
import { expect, it } from 'vitest';
import type { Member } from './member.ts';
import { Registry } from './registry.ts';
import type { Status } from './status.ts';

const AT = '2026-11-30T12:00:00.000Z';

const memberOf = (id: string, more: Partial<Member>): Member => ({
  id,
  kind: 'device',
  product: 'camera',
  site: 'north',
  tags: {},
  serial: 1,
  enrolledAt: AT,
  changedAt: AT,
  letInBy: { operator: 'anna' },
  ...more,
});

const statusOf = (id: string, version: string | undefined): Status => ({
  id,
  chains: [{ epoch: 'e', seq: 1, head: 'h', firstAt: AT, lastAt: AT, begunAt: AT, receivedAt: AT }],
  last: {
    state: 'completed',
    epoch: 'e',
    seq: 1,
    at: AT,
    receivedAt: AT,
    timestampVersion: 1,
    ...(version !== undefined && { booted: { slot: 'A' as const, release: { counter: 1, version } } }),
  },
  anomalies: [],
  returns: 0,
});

const ids = constantFrom('a', 'b', 'c', 'd');
const change = oneof(
  record({
    id: ids,
    kind: constantFrom<Member['kind']>('device', 'gateway'),
    product: constantFrom('camera', 'door'),
    site: constantFrom('north', 'south'),
    isRevoked: boolean(),
  }),
  record({ id: ids, version: constantFrom('1.0.0', '2.0.0', undefined) }),
);

type Change = { id: string; version: string | undefined } | Parameters<typeof placed>[0];

const placed = (of: Pick<Member, 'id' | 'kind' | 'site'> & { product: string; isRevoked: boolean }) =>
  memberOf(of.id, {
    kind: of.kind,
    product: of.product,
    site: of.site,
    ...(of.isRevoked && { revokedAt: AT }),
  });

function make(registry: Registry, one: Change): void {
  if ('kind' in one) registry.put(placed(one));
  else registry.putStatus(statusOf(one.id, one.version));
}

/** Devices that aren't revoked, by what is said of each. */
function recount(registry: Registry, saidOf: (member: Member) => string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const member of registry.members())
    if (member.kind === 'device' && member.revokedAt === undefined)
      counts.set(saidOf(member), (counts.get(saidOf(member)) ?? 0) + 1);
  return counts;
}

it('counts what a recount of all members finds, after any changes', () => {
  assert(
    property(array(change, { maxLength: 40 }), changes => {
      const registry = new Registry();
      for (const one of changes) make(registry, one);
      const { population } = registry;
      const found = population
        .versions(() => true)
        .map(of => [`${of.product} ${of.version}`, of.devices] as const);
      const runs = ({ id }: Member) => registry.status(id)?.last.booted?.release?.version ?? '(unknown)';
      expect(new Map(found)).toEqual(recount(registry, member => `${member.product} ${runs(member)}`));
      const bySite = recount(registry, ({ site }) => site);
      for (const site of ['north', 'south']) expect(population.devicesAt(site)).toBe(bySite.get(site) ?? 0);
    }),
  );
});

it('tells no more versions apart than a few, however many the devices name: the rest is one number', () => {
  const registry = new Registry();
  for (let at = 0; at < 1000; at += 1) {
    registry.put(memberOf(`d${at}`, {}));
    registry.putStatus(statusOf(`d${at}`, at < 500 ? '1.0.0' : `made-up-${at}`));
  }
  const versions = registry.population.versions(() => true);
  expect(versions).toHaveLength(31);
  expect(versions[0]).toEqual({ product: 'camera', version: '1.0.0', devices: 500 });
  expect(versions.at(-1)).toEqual({ product: 'camera', version: '(other)', devices: 471 });
  // A name that one device has alone isn't shown, unless a rollout has led to it.
  const known = registry.population.versions((_, version) => version === 'made-up-700');
  expect(known.map(({ version, devices }) => [version, devices])).toEqual([
    ['1.0.0', 500],
    ['made-up-700', 1],
    ['(other)', 499],
  ]);
  for (let at = 0; at < 200; at += 1) registry.put(memberOf(`p${at}`, { product: `made-up-${at}` }));
  const products = new Set(registry.population.versions(() => true).map(({ product }) => product));
  expect(products.size).toBe(101);
  expect(registry.population.versions(() => true).reduce((all, { devices }) => all + devices, 0)).toBe(1200);
});
