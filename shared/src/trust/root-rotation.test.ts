import { beforeEach, describe, expect, it } from 'vitest';
import type { Signer } from './signing.ts';
import { MemoryMetadataStore } from './stores.ts';
import {
  newSigner,
  openTestClient,
  refreshedTestClient,
  TestRepository,
  trustedVersions,
} from './testing/index.ts';

const refusal = (code: string, data: Record<string, unknown> = {}) =>
  expect.objectContaining({ code, data: expect.objectContaining(data) });

describe('root rotation', () => {
  let repository: TestRepository;
  let store: MemoryMetadataStore;
  let first: Signer[];
  beforeEach(async () => {
    repository = await TestRepository.create();
    store = new MemoryMetadataStore();
    first = repository.signers.get('root') ?? [];
  });

  /** Publishes a root that names `keys` and is signed by `signers`. */
  const publishRoot = async (keys: Signer[], signers: Signer[], threshold = keys.length): Promise<void> => {
    repository.setSigners('root', keys, threshold);
    repository.signers.set('root', signers);
    await repository.publish('root');
  };
  const refresh = async () => refreshedTestClient(repository, { store });
  const rootVersion = async () => (await openTestClient(repository, { store })).trusted.root.signed.version;

  it('by one step is followed if old and new keys sign', async () => {
    const next = [newSigner(), newSigner()];
    await publishRoot(next, [...first, ...next]);
    await refresh();
    expect(store.files.get('root.json')).toEqual(repository.bytesOf('root', 2));
  });

  it('by many steps is followed in one refresh, each step verified by the one before', async () => {
    let before = first;
    for (let step = 0; step < 12; step += 1) {
      const next = [newSigner()];
      await publishRoot(next, [...before, ...next]);
      before = next;
    }
    await refresh();
    expect(await rootVersion()).toBe(13);
    expect(repository.requests.slice(0, 13)).toEqual(
      Array.from({ length: 13 }, (_, index) => `metadata/${index + 2}.root.json`),
    );
  });

  it('is bounded in one refresh, and continues in the next', async () => {
    for (let step = 0; step < 5; step += 1) await repository.publish('root');
    const limits = { maxRootRotations: 3 };
    await refreshedTestClient(repository, { store, limits });
    expect(await rootVersion()).toBe(4);
    await refreshedTestClient(repository, { store, limits });
    expect(await rootVersion()).toBe(6);
  });

  it.each<[string, (next: Signer[]) => Signer[]]>([
    ['new keys only', next => next],
    ['old keys only', () => first],
    ['one of two new keys', ([one = newSigner()]) => [...first, one]],
    ['strangers', () => [newSigner(), newSigner()]],
  ])('signed by %s is refused', async (_, choose) => {
    const next = [newSigner(), newSigner()];
    await publishRoot(next, choose(next));
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_SIGNATURES_MISSING', { role: 'root', step: '5.3.4' }),
    );
    expect(await rootVersion()).toBe(1);
    repository.signers.set('root', [...first, ...next]);
    await repository.layOut('root');
    await refresh();
    expect(await rootVersion()).toBe(2);
  });

  it('keeps the steps before an invalid one', async () => {
    const [second, third] = [[newSigner()], [newSigner()]];
    await publishRoot(second, [...first, ...second]);
    await publishRoot(third, [...first, ...third]);
    await expect(refresh()).rejects.toThrow(refusal('SITECAST_SIGNATURES_MISSING'));
    expect(await rootVersion()).toBe(2);
  });

  it('that raises the threshold must meet it with the new root itself', async () => {
    const keys = [...first, newSigner(), newSigner()];
    await publishRoot(keys, keys.slice(0, 2), 3);
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_SIGNATURES_MISSING', { valid: 2, threshold: 3 }),
    );
    repository.signers.set('root', keys);
    await repository.layOut('root');
    await refresh();
    await publishRoot(keys, keys.slice(0, 1), 1);
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_SIGNATURES_MISSING', { valid: 1, threshold: 3 }),
    );
  });

  it('with a gap stops before it', async () => {
    await repository.publish('root');
    await repository.publish('root');
    repository.files.delete('metadata/2.root.json');
    await refresh();
    expect(await rootVersion()).toBe(1);
    // The third root in the second's place.
    repository.files.set('metadata/2.root.json', repository.bytesOf('root', 3));
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_METADATA_MISMATCH', { role: 'root', step: '5.3.5' }),
    );
    // The first root in the second's place.
    repository.files.set('metadata/2.root.json', repository.bytesOf('root', 1));
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_METADATA_ROLLBACK', { role: 'root', step: '5.3.5' }),
    );
    expect(await rootVersion()).toBe(1);
  });

  it('with a fork stays on the branch that it took first', async () => {
    const [here, there] = [[newSigner()], [newSigner()]];
    const fork = repository.root;
    await publishRoot(here, [...first, ...here]);
    await refresh();
    repository.root = { ...fork, version: 1 };
    await publishRoot(there, [...first, ...there]);
    await publishRoot(there, there);
    await expect(refresh()).rejects.toThrow(refusal('SITECAST_SIGNATURES_MISSING', { role: 'root' }));
    expect(await rootVersion()).toBe(2);
  });

  it('may pass an expired root, but must not end at one', async () => {
    repository.root.expires = repository.inDays(-1);
    await repository.publish('root');
    await expect(refresh()).rejects.toThrow(
      refusal('SITECAST_METADATA_EXPIRED', { role: 'root', step: '5.3.10' }),
    );
    expect(await rootVersion()).toBe(2);
    expect(store.files.has('timestamp.json')).toBe(false);
    repository.root.expires = repository.inDays(1);
    await repository.publish('root');
    await refresh();
    expect(await rootVersion()).toBe(3);
  });

  describe('recovery from a fast-forward attack', () => {
    const HIGH = 1_000_000;
    const versions = async () => trustedVersions(await refresh());

    it.each([['timestamp'], ['snapshot'], ['timestamp', 'snapshot']] as const)(
      'accepts lower versions when the %s key (and %s) is replaced',
      async (...roles) => {
        repository.delegate('targets', 'team');
        repository.timestamp.version = HIGH;
        repository.targets.version = HIGH;
        if (roles.some(role => role === 'snapshot')) repository.snapshot.version = HIGH;
        await repository.publish('team');
        await repository.publishWithSnapshot('targets');
        await versions();
        for (const role of roles) repository.setSigners(role, [newSigner()]);
        repository.timestamp.version = roles.length === 2 || roles[0] === 'timestamp' ? 1 : HIGH + 5;
        repository.snapshot.version = 1;
        repository.targets.version = 1;
        delete repository.targets.delegations;
        delete repository.snapshot.meta['team.json'];
        await repository.publish('root');
        await repository.publishWithSnapshot('targets');
        expect(await versions()).toEqual([2, repository.timestamp.version, 2, 2]);
        expect(await versions()).toEqual([2, repository.timestamp.version, 2, 2]);
      },
    );

    it('accepts lower versions also when one key is revoked and the remaining key had signed as well', async () => {
      const [kept, stolen] = [newSigner(), newSigner()];
      repository.setSigners('timestamp', [kept, stolen], 1);
      repository.timestamp.version = HIGH;
      await repository.publish('root');
      await repository.publishWithSnapshot('targets');
      await versions();
      repository.setSigners('timestamp', [kept]);
      repository.timestamp.version = 1;
      await repository.publish('root', 'timestamp');
      expect(await versions()).toEqual([3, 2, 2, 2]);
    });

    it.each([
      ['a key is added', 'timestamp'],
      ['the root keys change', 'root'],
      ['the targets key is replaced', 'targets'],
    ] as const)('does not apply when %s', async (_, role) => {
      const old = repository.bytesOf('timestamp');
      await repository.publishWithSnapshot('targets');
      await versions();
      const before = repository.signers.get(role) ?? [];
      const added = newSigner();
      repository.setSigners(role, role === 'targets' ? [added] : [...before, added], 1);
      repository.signers.set(role, [...before, added]);
      await repository.publish('root');
      repository.files.set(repository.pathOf('timestamp'), old);
      await expect(versions()).rejects.toThrow(refusal('SITECAST_METADATA_ROLLBACK', { role: 'timestamp' }));
    });

    it('continues after the root had expired meanwhile', async () => {
      repository.timestamp.version = HIGH;
      await repository.publish('timestamp');
      await versions();
      repository.setSigners('timestamp', [newSigner()]);
      repository.timestamp.version = 1;
      repository.root.expires = repository.inDays(-1);
      await repository.publish('root', 'timestamp');
      await expect(versions()).rejects.toThrow(refusal('SITECAST_METADATA_EXPIRED'));
      repository.root.expires = repository.inDays(1);
      await repository.publish('root');
      expect(await versions()).toEqual([3, 2, 1, 1]);
    });
  });
});
