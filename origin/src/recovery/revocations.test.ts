import type { RolloutsFile } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, describe, expect, it } from 'vitest';
import { type Member, memberSchema } from '../fleet/member.ts';
import { removeUnreadable } from '../adapters/embedded/recovery.ts';
import { openStores } from '../adapters/embedded/stores.ts';
import type { TableStore, Write } from '../adapters/embedded/tables.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { restoreRevocations } from './revocations.ts';

const AT = '2030-01-01T00:00:00.000Z';
const now = () => Date.parse(AT);
const newId = () => new Identity(KeyPair.generate()).id;

const member = (more: Partial<Member> = {}): Member => ({
  id: newId(),
  kind: 'device',
  product: 'camera',
  hardware: 'rpi4',
  site: 'north',
  tags: {},
  serial: 3,
  enrolledAt: AT,
  changedAt: AT,
  letInBy: { operator: 'ann' },
  ...more,
});

const fileOf = (product: string, ...revoked: string[]): [string, RolloutsFile] => [
  product,
  { format: 'sitecast-rollouts-1', product, rollouts: [], revoked },
];

let store: TableStore;
beforeEach(() => {
  store = new MemoryTables();
});

const put = (value: Member): Write => ({ table: 'member', key: value.id, value });

describe('after a loss', () => {
  it('revoked members are revoked again, by the signed files or the audit log', async () => {
    const [bound, revoked, untouched] = [member(), member({ revokedAt: AT }), member()];
    await store.commit([put(bound), put(revoked), put(untouched)]);
    const { audit, fleetStore, revocations } = await openStores(store, now);
    const [device, gateway, listed] = [newId(), newId(), newId()];
    const by = 'ann';
    await audit.record({ by, action: 'device.revoke', subject: `device:${device}` });
    await audit.record({ by, action: 'gateway.revoke', subject: `gateway:${gateway}` });
    await audit.record({ by, action: 'device.change', subject: `device:${untouched.id}` });
    const files = new Map([
      fileOf('camera', bound.id, revoked.id, device, listed),
      fileOf('doorbell', gateway),
    ]);
    const deps = { audit, registry: fleetStore.registry, now };
    const lost = await restoreRevocations(deps, files);
    const ids = lost.members.map(({ id }) => id);
    expect(new Set(ids)).toEqual(new Set([bound.id, device, gateway, listed]));

    await revocations.revokeAgain(lost, { by, action: 'origin.recover', subject: 'origin:data' });
    const { registry } = (await openStores(store, now)).fleetStore;
    for (const id of ids) {
      expect(memberSchema.parse(registry.member(id))).toMatchObject({ revokedAt: AT });
      // Gateways keep the assignment with the higher serial.
      expect(registry.member(id)?.serial).toBeGreaterThan(1000);
    }
    expect(registry.member(bound.id)).toMatchObject({ site: 'north', product: 'camera' });
    expect(registry.member(device)).toMatchObject({ kind: 'device', product: 'camera' });
    // The gateway is listed in every product's file, because its product is unknown.
    expect(registry.member(listed)).toMatchObject({ kind: 'gateway' });
    expect(registry.activeMember(untouched.id)).toEqual(untouched);
    expect((await restoreRevocations({ ...deps, registry }, files)).members).toEqual([]);
  });

  it('tokens that were deleted are deleted again', async () => {
    const { audit, fleetStore } = await openStores(store, now);
    const revokeToken = {
      by: 'ann',
      action: 'token.revoke' as const,
      subject: 'token:ci',
      details: { id: 'a1' },
    };
    await audit.record(revokeToken);
    await audit.record({ by: 'ann', action: 'joinToken.revoke', subject: 'joinToken:b2' });
    const deps = { audit, registry: fleetStore.registry, now };
    expect(await restoreRevocations(deps, new Map())).toEqual({
      members: [],
      tokens: ['a1'],
      joinTokens: ['b2'],
    });
  });

  it('values that no origin could read are deleted, and counted', async () => {
    const good = member();
    await store.commit([
      put(good),
      { table: 'member', key: 'x', value: { id: 'x' } },
      { table: 'status', key: 'x', value: 'garbage' },
      { table: 'seen', key: good.id, value: 5 },
    ]);
    await expect(openStores(store, now)).rejects.toMatchObject({ code: 'SITECAST_STATE_DAMAGED' });
    expect(await removeUnreadable(store)).toEqual({ member: 1, status: 1 });
    expect((await openStores(store, now)).fleetStore.registry.member(good.id)).toEqual(good);
  });
});
