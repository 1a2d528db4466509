import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withOnlineRootKey } from '@sitecast/shared/signing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { fileOf } from '../adapters/disk/layout.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { imageOf } from '../testing/operator.ts';
import { openTestOrigin, testLog, type TestOrigin } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';
import { Upkeep } from '../upkeep.ts';

// Two origins on the same files, as on a shared store: only one has the lead at a time.

let one: Awaited<ReturnType<typeof temporaryOrigin>>;
let other: TestOrigin;

beforeEach(async () => {
  one = await temporaryOrigin(path => testDisk(path));
  other = await openTestOrigin({ ...testDisk(one.path), now: one.clock.now });
});
afterEach(async () => {
  await other.close();
  await one.close();
  await one.remove();
});

const publish = async (): Promise<void> => {
  const answer = await one.operator.publish('camera', imageOf(...randomChunks(1)));
  if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
};

it('takes over what another origin has published, once, and tells its waiting clients', async () => {
  await publish();
  expect(other.repository.versions()).not.toEqual(one.repository.versions());
  let told = 0;
  other.repository.onCommit(() => {
    told += 1;
  });
  await other.repository.notice();
  await other.repository.notice();
  expect(other.repository.versions()).toEqual(one.repository.versions());
  expect(other.repository.committed?.timestamp.bytes).toEqual(one.repository.committed?.timestamp.bytes);
  expect(told).toBe(1);
});

it('builds on what another origin has published, and gives no version twice', async () => {
  await publish();
  one.clock.passHours(2);
  await other.repository.renew();
  const renewed = other.repository.versions();
  expect(renewed).toMatchObject({ targets: 2, timestamp: 3 });
  await publish();
  expect(one.repository.versions()).toMatchObject({ targets: 3, timestamp: 4 });
  await other.repository.notice();
  expect(other.repository.versions()).toEqual(one.repository.versions());
});

it('signs with a key that another origin has rotated', async () => {
  const before = other.repository.signerOf('timestamp').keyId;
  const next = await one.repository.prepareKey('timestamp');
  const { operator } = one;
  if (!operator.root) throw new Error('not initialised');
  operator.root = withOnlineRootKey(operator.root, 'timestamp', next, one.clock.nowMs);
  expect(await operator.submit({ root: true, targets: false })).toMatchObject({ httpStatus: 200 });
  await other.repository.renew();
  const { keyId } = other.repository.signerOf('timestamp');
  expect(keyId).toBe(one.repository.signerOf('timestamp').keyId);
  expect(keyId).not.toBe(before);
  expect(other.repository.missingKeys).toEqual([]);
});

it('keeps what it has verified if the timestamp is damaged or older', async () => {
  const path = join(one.path, fileOf({ kind: 'metadata', role: 'timestamp', version: 1 }));
  const older = readFileSync(path);
  await publish();
  await other.repository.notice();
  const versions = other.repository.versions();
  for (const bytes of [older, Buffer.from('spoilt')]) {
    writeFileSync(path, bytes);
    await other.repository.notice();
    expect(other.repository.versions()).toEqual(versions);
  }
  // The next timestamp replaces it.
  one.clock.passHours(2);
  await other.repository.renew();
  expect(other.repository.versions().timestamp).toBe((versions.timestamp ?? 0) + 1);
  await one.repository.notice();
  expect(one.repository.versions()).toEqual(other.repository.versions());
});

it('without the lead, signs and deletes nothing, and follows the origin that has it', async () => {
  const upkeep = new Upkeep({
    repository: other.repository,
    leadership: { isHeld: false },
    stagingTtlMs: 1,
    now: one.clock.now,
    after: () => () => {},
    log: testLog(),
  });
  await publish();
  one.clock.passHours(2);
  await upkeep.start();
  await upkeep.stop();
  expect(other.repository.versions()).toEqual(one.repository.versions());
  expect(other.repository.versions().timestamp).toBe(2);
});
