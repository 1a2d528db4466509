import type { RolloutsFile } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { beforeEach, describe, expect, it } from 'vitest';
import { AuditLog } from '../audit/log.ts';
import { type Member, memberSchema } from '../fleet/member.ts';
import { Registry } from '../fleet/registry.ts';
import type { FleetStore, Write } from '../fleet/store.ts';
import { MemoryFleet } from '../testing/memory-fleet.ts';
import { restoreRevocations } from './revocations.ts';
import { removeUnreadable } from './unreadable.ts';

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

let store: FleetStore;
beforeEach(() => {
  store = new MemoryFleet();
});

const put = (value: Member): Write => ({ table: 'member', key: value.id, value });

describe('after a loss', () => {
  it('who was revoked is revoked again, by the word of the signed files or of the audit log', async () => {
    const [bound, revoked, untouched] = [member(), member({ revokedAt: AT }), member()];
    await store.commit([put(bound), put(revoked), put(untouched)]);
    const audit = await AuditLog.open(store, now);
    const [device, gateway, listed] = [newId(), newId(), newId()];
    const by = 'ann';
    await audit.record({ by, action: 'device.revoke', subject: `device:${device}` });
    await audit.record({ by, action: 'gateway.revoke', subject: `gateway:${gateway}` });
    await audit.record({ by, action: 'device.change', subject: `device:${untouched.id}` });
    const files = new Map([
      fileOf('camera', bound.id, revoked.id, device, listed),
      fileOf('doorbell', gateway),
    ]);
    const deps = { audit, registry: await Registry.open(store), now };
    const { members, writes } = await restoreRevocations(deps, files);
    expect(new Set(members)).toEqual(new Set([bound.id, device, gateway, listed]));

    await store.commit(writes);
    const registry = await Registry.open(store);
    for (const id of members) {
      expect(memberSchema.parse(registry.member(id))).toMatchObject({ revokedAt: AT });
      // Gateways hold the assignment with the higher serial.
      expect(registry.member(id)?.serial).toBeGreaterThan(1000);
    }
    expect(registry.member(bound.id)).toMatchObject({ site: 'north', product: 'camera' });
    expect(registry.member(device)).toMatchObject({ kind: 'device', product: 'camera' });
    // In every product's file: nobody knows which it was.
    expect(registry.member(listed)).toMatchObject({ kind: 'gateway' });
    expect(registry.activeMember(untouched.id)).toEqual(untouched);
    expect((await restoreRevocations({ ...deps, registry }, files)).members).toEqual([]);
  });

  it('tokens that were deleted are deleted again', async () => {
    const audit = await AuditLog.open(store, now);
    const revokeToken = { by: 'ann', action: 'token.revoke', subject: 'token:ci', details: { id: 'a1' } };
    await audit.record(revokeToken);
    await audit.record({ by: 'ann', action: 'joinToken.revoke', subject: 'joinToken:b2' });
    const registry = await Registry.open(store);
    const { writes } = await restoreRevocations({ audit, registry, now }, new Map());
    expect(writes).toEqual([
      { table: 'token', key: 'a1', value: undefined },
      { table: 'joinToken', key: 'b2', value: undefined },
    ]);
  });

  it('values that no origin could read are deleted, and counted', async () => {
    const good = member();
    await store.commit([
      put(good),
      { table: 'member', key: 'x', value: { id: 'x' } },
      { table: 'status', key: 'x', value: 'garbage' },
      { table: 'seen', key: good.id, value: 5 },
    ]);
    await expect(Registry.open(store)).rejects.toMatchObject({ code: 'SITECAST_STATE_DAMAGED' });
    expect(await removeUnreadable(store)).toEqual({ member: 1, status: 1 });
    expect((await Registry.open(store)).member(good.id)).toEqual(good);
  });
});
