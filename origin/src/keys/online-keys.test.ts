import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  KeyPair,
  ONLINE_ROLES,
  type OnlineRole,
  withOnlineDelegatedKey,
  withOnlineRootKey,
} from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { DiskFiles } from '../adapters/disk/disk-files.ts';
import { DiskKeyStore } from '../adapters/disk/key-store.ts';
import { imageOf } from '../testing/operator.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';
import { OnlineKeys } from './online-keys.ts';

const disks = (path: string) => testDisk(path);

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(disks);
});
afterEach(() => origin.remove());

const keyFile = (role: OnlineRole) => join(origin.path, `keys/${role}.pem`);

async function nextProcess(): Promise<TestOrigin> {
  const next = await openTestOrigin({ ...disks(origin.path), now: origin.clock.now });
  origin.operator.connect((path, init) => next.app.request(path, init), next.adminToken);
  return next;
}

/** Does what `sitecast keys rotate ROLE` does. */
async function rotate({ repository }: TestOrigin, role: OnlineRole): Promise<Record<string, unknown>> {
  const { operator, clock } = origin;
  const key = await repository.prepareKey(role);
  const isRootRole = role === 'timestamp' || role === 'snapshot';
  if (!operator.root) throw new Error();
  if (isRootRole) operator.root = withOnlineRootKey(operator.root, role, key, clock.nowMs);
  else operator.targets = withOnlineDelegatedKey(operator.prepared(), role, key, clock.nowMs);
  return operator.submit({ root: isRootRole, targets: !isRootRole });
}

describe('a key that the published metadata names', () => {
  const spoilt: [string, (path: string) => void, RegExp][] = [
    ['missing', path => rmSync(path), /keys\/rollouts\.pem is missing/],
    ['cut off', path => writeFileSync(path, '-----BEGIN'), /rollouts\.pem holds no Ed25519 private key/],
    ['another', path => writeFileSync(path, KeyPair.generate().toPkcs8Pem()), /is another key than/],
    ['too long', path => writeFileSync(path, 'x'.repeat(9000)), /rollouts\.pem can't be read/],
  ];
  it.each(spoilt)('%s: is noticed at the start, and everything is served', async (_what, spoil, said) => {
    await origin.operator.publishOk('camera', imageOf(...randomChunks(1)));
    spoil(keyFile('rollouts'));
    const { app, repository } = await nextProcess();
    const response = await app.request('/readyz');
    expect(response.status).toBe(503);
    expect(JSON.parse(await response.text())).toMatchObject({
      code: 'SITECAST_NOT_READY',
      detail: expect.stringMatching(said),
      data: { code: 'SITECAST_ONLINE_KEY_MISSING' },
    });
    expect((await app.request('/metadata/timestamp.json')).status).toBe(200);
    const start = await origin.operator.json('/api/v1/rollouts', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ product: 'camera', version: '1.0.0', allAtOnce: true }),
    });
    expect(start).toMatchObject({
      httpStatus: 503,
      code: 'SITECAST_ONLINE_KEY_MISSING',
      detail: expect.stringMatching(said),
      hint: expect.stringContaining('sitecast keys rotate rollouts'),
    });
    // The other roles are still renewed.
    origin.clock.passHours(1);
    await repository.renew();
    expect(repository.versions()).toMatchObject({ timestamp: 3, rollouts: 1 });
  });

  it('keeps only its own role from being renewed, and that is reported', async () => {
    rmSync(keyFile('deltas'));
    const { repository } = await nextProcess();
    origin.clock.passDays(8);
    await expect(repository.renew()).rejects.toMatchObject({
      code: 'SITECAST_ONLINE_KEY_MISSING',
      data: { role: 'deltas' },
    });
    expect(repository.versions()).toMatchObject({ timestamp: 2, snapshot: 2, rollouts: 2, deltas: 1 });
  });

  it('can be rotated for each role in turn, where all of them are lost and everything has expired', async () => {
    for (const role of ONLINE_ROLES) rmSync(keyFile(role));
    origin.clock.passDays(20);
    const next = await nextProcess();
    const before = origin.operator.targets;
    expect(await rotate(next, 'deltas')).toMatchObject({ httpStatus: 503, data: { role: 'snapshot' } });
    origin.operator.targets = before;
    for (const role of ONLINE_ROLES) {
      expect(await rotate(next, role)).toMatchObject({ httpStatus: 200 });
    }
    const { app } = await nextProcess();
    expect((await app.request('/readyz')).status).toBe(200);
  });
});

it('is not replaced where it is damaged before there is a repository, because a draft may name it', async () => {
  const files = new DiskFiles(join(origin.path, 'fresh'));
  await files.makeDirectory('keys');
  await files.writeDurably('keys/snapshot.pem', Buffer.from('half'));
  await expect(OnlineKeys.open(new DiskKeyStore(files), { mayCreate: true })).rejects.toMatchObject({
    code: 'SITECAST_KEY_INVALID',
    hint: expect.stringContaining('delete it'),
  });
});
