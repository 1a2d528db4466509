import { expect, it } from 'vitest';
import { parseMetadata, signMetadata, topLevelSigners, verifyThreshold } from '../trust/index.ts';
import { KeyPair } from './key-pair.ts';
import {
  firstRoot,
  firstTargets,
  nextVersion,
  withOnlineDelegatedKey,
  withOnlineRootKey,
  withOperatorKeys,
} from './roles.ts';

const now = Date.parse('2030-01-01T00:00:00Z');
const alice = KeyPair.generate();
const bob = KeyPair.generate();
const carol = KeyPair.generate();
const dave = KeyPair.generate();
const releaser = KeyPair.generate();
const online = {
  timestamp: KeyPair.generate().key,
  snapshot: KeyPair.generate().key,
  rollouts: KeyPair.generate().key,
  deltas: KeyPair.generate().key,
};
const root = firstRoot(
  { keys: [alice.key, bob.key, carol.key], threshold: 2 },
  { keys: [releaser.key], threshold: 1 },
  online,
  now,
);

it('creates a first root and targets that belong together, valid for a year', async () => {
  const signed = parseMetadata(await signMetadata(root, [alice, carol]), 'root');
  verifyThreshold(signed, topLevelSigners(signed.signed, 'root'), { role: 'root' });
  expect(signed.signed.expires).toBe('2031-01-01T00:00:00Z');
  const targets = parseMetadata(await signMetadata(firstTargets(online, now), [releaser]), 'targets');
  verifyThreshold(targets, topLevelSigners(root, 'targets'), { role: 'targets' });
  expect(targets.signed.delegations?.roles?.map(({ name, paths }) => [name, paths])).toEqual([
    ['rollouts', ['rollouts/*']],
    ['deltas', ['deltas/*']],
  ]);
});

it('refuses a threshold that can not be reached', () => {
  expect(() =>
    firstRoot(
      { keys: [alice.key, alice.key], threshold: 2 },
      { keys: [releaser.key], threshold: 1 },
      online,
      now,
    ),
  ).toThrow(expect.objectContaining({ code: 'SITECAST_KEY_CHANGE_INVALID' }));
  expect(() => withOperatorKeys(root, 'release', { remove: [releaser.keyId] }, now)).toThrow(/threshold/);
});

it('replaces an operator key and removes the old one', () => {
  const next = withOperatorKeys(root, 'root', { add: [dave.key], remove: [bob.keyId.slice(0, 8)] }, now);
  expect(next.version).toBe(2);
  expect(next.roles.root.keyids).toEqual([alice.keyId, carol.keyId, dave.keyId]);
  expect(Object.keys(next.keys)).not.toContain(bob.keyId);
  expect(root.version).toBe(1);
});

it('refuses to remove an unknown key, and to give two roles one key', () => {
  expect(() => withOperatorKeys(root, 'root', { remove: [dave.keyId] }, now)).toThrow(/no single key/);
  expect(() => withOperatorKeys(root, 'root', { remove: [bob.keyId.slice(0, 4)] }, now)).toThrow(
    /no single key/,
  );
  expect(() => withOperatorKeys(root, 'release', { add: [alice.key] }, now)).toThrow(/another role/);
});

it('replaces a key of the origin in root and in the delegations', () => {
  const next = withOnlineRootKey(root, 'timestamp', dave.key, now);
  expect(next.roles.timestamp).toEqual({ keyids: [dave.keyId], threshold: 1 });
  expect(next.roles.snapshot).toEqual(root.roles.snapshot);
  const targets = withOnlineDelegatedKey(firstTargets(online, now), 'rollouts', dave.key, now);
  expect(targets.version).toBe(2);
  expect(targets.delegations?.roles?.[0]?.keyids).toEqual([dave.keyId]);
  expect(Object.keys(targets.delegations?.keys ?? {})).toHaveLength(2);
});

it('renews by changing version and expiry only, and leaves the old metadata unchanged', () => {
  const later = now + 86_400_000;
  const next = nextVersion(root, later);
  expect(next).toEqual({ ...root, version: 2, expires: '2031-01-02T00:00:00Z' });
  expect(root.version).toBe(1);
});
