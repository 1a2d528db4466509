import { beforeEach, describe, expect, it } from 'vitest';
import { TufClient } from './client.ts';
import { MemoryMetadataStore } from './stores.ts';
import { openTestClient, refreshedTestClient, TestRepository, trustedVersions } from './testing/index.ts';

const coded = (code: string) => expect.objectContaining({ code });

describe('the TUF client', () => {
  let repository: TestRepository;
  let store: MemoryMetadataStore;
  beforeEach(async () => {
    repository = await TestRepository.create();
    store = new MemoryMetadataStore();
  });

  it('requests each file once, in the order of the specification, and stores the bytes it received', async () => {
    const client = await openTestClient(repository, { store });
    expect(repository.requests).toEqual([]);
    await client.refresh();
    expect(repository.requests).toEqual([
      'metadata/2.root.json',
      'metadata/timestamp.json',
      'metadata/1.snapshot.json',
      'metadata/1.targets.json',
    ]);
    for (const role of ['root', 'timestamp', 'snapshot', 'targets']) {
      expect(store.files.get(`${role}.json`)).toEqual(repository.bytesOf(role));
    }
    expect(client.isComplete).toBe(true);
  });

  it('requests only root and timestamp when nothing has changed', async () => {
    await refreshedTestClient(repository, { store });
    repository.requests.length = 0;
    const again = await refreshedTestClient(repository, { store });
    expect(repository.requests).toEqual(['metadata/2.root.json', 'metadata/timestamp.json']);
    expect(again.isComplete).toBe(true);
  });

  it.each([true, false])(
    'follows a repository with hashes and consistent snapshots: %s',
    async isConsistent => {
      repository.root.consistent_snapshot = isConsistent;
      repository.listsHashes = true;
      repository.delegate('targets', 'team', { paths: ['team/*'] });
      repository.addTarget('targets', 'one', 'first');
      repository.addTarget('team', 'team/two words', 'second');
      await repository.publish('root', 'team');
      await repository.publishWithSnapshot('targets');
      const client = await refreshedTestClient(repository, { store });
      for (const [name, role, content] of [
        ['one', 'targets', 'first'],
        ['team/two words', 'team', 'second'],
      ] as const) {
        const found = await client.findTarget(name);
        expect(found).toMatchObject({ name, role });
        expect(found && Buffer.from(await client.fetchTarget(found)).toString()).toBe(content);
      }
      expect(await client.findTarget('three')).toBeUndefined();
      expect(trustedVersions(client)).toEqual([2, 2, 2, 2]);
    },
  );

  it('finds in its store, without a repository, what it trusted before', async () => {
    repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] });
    repository.addTarget('rollouts', 'rollouts/camera.json', '{}');
    await repository.publish('rollouts');
    await repository.publishWithSnapshot('targets');
    const online = await refreshedTestClient(repository, { store });
    await online.findTarget('rollouts/camera.json');
    repository.files.clear();
    const { metadata, nowMs } = repository;
    const offline = await TufClient.open({ store, fetcher: metadata, now: () => nowMs });
    expect(await offline.findTarget('rollouts/camera.json')).toMatchObject({ role: 'rollouts' });
    expect((await offline.loadDelegated('rollouts')).signed.version).toBe(1);
    await expect(offline.loadDelegated('nobody')).rejects.toThrow(coded('SITECAST_ROLE_UNKNOWN'));
  });

  it('returns no target before it has a complete and fresh set', async () => {
    const client = await openTestClient(repository, { store });
    expect(client.isComplete).toBe(false);
    await expect(client.findTarget('x')).rejects.toThrow(coded('SITECAST_TRUST_INCOMPLETE'));
    await client.refresh();
    const later = await openTestClient(repository, { store, nowMs: repository.nowMs + 31 * 86_400_000 });
    await expect(later.findTarget('x')).rejects.toThrow(coded('SITECAST_METADATA_EXPIRED'));
  });

  it('continues where a refresh failed', async () => {
    await refreshedTestClient(repository, { store });
    await repository.publishWithSnapshot('targets');
    const path = repository.pathOf('targets');
    const bytes = repository.bytesOf('targets');
    repository.files.delete(path);
    const client = await openTestClient(repository, { store });
    await expect(client.refresh()).rejects.toThrow(coded('SITECAST_METADATA_MISSING'));
    expect(trustedVersions(client)).toEqual([1, 2, 2, 1]);
    expect(client.isComplete).toBe(false);
    repository.files.set(path, bytes);
    await client.refresh();
    expect(trustedVersions(client)).toEqual([1, 2, 2, 2]);
  });

  it('fetches a file again that was replaced under the same version, where hashes show it', async () => {
    repository.listsHashes = true;
    await repository.publishWithSnapshot('targets');
    await refreshedTestClient(repository, { store });
    for (const role of ['targets', 'snapshot'] as const) {
      repository[role].expires = repository.inDays(20);
      await repository.layOut(role);
    }
    await repository.publish('timestamp');
    const client = await refreshedTestClient(repository, { store });
    expect(client.isComplete).toBe(true);
    for (const role of ['targets', 'snapshot'] as const) {
      expect(store.files.get(`${role}.json`)).toEqual(repository.bytesOf(role));
    }
  });

  it('runs one call after the other', async () => {
    repository.addTarget('targets', 'one', 'first');
    await repository.publishWithSnapshot('targets');
    const client = await openTestClient(repository, { store });
    const [, found] = await Promise.all([client.refresh(), client.findTarget('one'), client.refresh()]);
    expect(found).toBeDefined();
  });

  describe('when initialised', () => {
    it('says whether the store was initialised before', async () => {
      const root = repository.bytesOf('root');
      expect(await TufClient.init(store, root, repository.nowMs)).toBe('created');
      expect(await TufClient.init(store, root, repository.nowMs)).toBe('kept');
      await repository.publish('root');
      await refreshedTestClient(repository, { store });
      expect(await TufClient.init(store, root, repository.nowMs)).toBe('kept');
      expect(await TufClient.init(store, repository.bytesOf('root', 2), repository.nowMs)).toBe('kept');
      const other = await TestRepository.create();
      expect(await TufClient.init(store, other.bytesOf('root'), repository.nowMs)).toBe('other');
      expect(store.files.get('root.json')).toEqual(repository.bytesOf('root', 2));
      expect(store.files.get('root.pinned')).toEqual(root);
    });

    it('refuses a root that does not carry the signatures that it demands', async () => {
      repository.signers.set('root', []);
      await repository.publish('root');
      const unsigned = repository.bytesOf('root', 2);
      await expect(TufClient.init(store, unsigned, 0)).rejects.toThrow(coded('SITECAST_SIGNATURES_MISSING'));
      await expect(TufClient.init(store, Buffer.from('{}'), 0)).rejects.toThrow(
        coded('SITECAST_METADATA_MALFORMED'),
      );
      expect(store.files.size).toBe(0);
    });

    it('bounds the length of the root', async () => {
      const root = repository.bytesOf('root');
      const init = async (maxRootBytes: number) => TufClient.init(store, root, 0, { maxRootBytes });
      await expect(init(root.length - 1)).rejects.toThrow(coded('SITECAST_FILE_TOO_LARGE'));
      expect(await init(root.length)).toBe('created');
    });

    it('needs a root to open', async () => {
      const open = TufClient.open({ store, fetcher: repository.metadata, now: Date.now });
      await expect(open).rejects.toThrow(coded('SITECAST_TRUST_UNINITIALISED'));
    });

    it('starts from an expired root', async () => {
      repository.root.expires = repository.inDays(-1);
      await repository.layOut('root');
      repository.root.expires = repository.inDays(1);
      await repository.publish('root');
      expect(trustedVersions(await refreshedTestClient(repository, { store }))).toEqual([2, 1, 1, 1]);
    });
  });
});
