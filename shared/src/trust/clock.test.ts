import { beforeEach, describe, expect, it } from 'vitest';
import { MemoryMetadataStore } from './stores.ts';
import {
  newSigner,
  openTestClient,
  refreshedTestClient,
  TestRepository,
  trustedVersions,
} from './testing/index.ts';

const DAY_MS = 86_400_000;
const expired = (role: string) =>
  expect.objectContaining({ code: 'SITECAST_METADATA_EXPIRED', data: expect.objectContaining({ role }) });

describe('the clock, compared with the trusted timestamp,', () => {
  let repository: TestRepository;
  let store: MemoryMetadataStore;
  beforeEach(async () => {
    repository = await TestRepository.create();
    store = new MemoryMetadataStore();
  });
  const inDays = (days: number): number => Date.parse(repository.inDays(days));
  const clockIn = async (days: number) =>
    (await openTestClient(repository, { store, nowMs: inDays(days) })).clock();

  it('is unknown without a timestamp, and with one that lacks `issued`', async () => {
    expect(await clockIn(0)).toEqual({ state: 'unknown', issuedMs: undefined });
    delete repository.timestamp.issued;
    await repository.publish('timestamp');
    await refreshedTestClient(repository, { store });
    expect(await clockIn(0)).toEqual({ state: 'unknown', issuedMs: undefined });
  });

  it('is behind, ok, or suspect', async () => {
    await refreshedTestClient(repository, { store });
    const issuedMs = inDays(0);
    expect(await clockIn(0)).toEqual({ state: 'ok', issuedMs });
    // The timestamp expires after 30 days; 30 more have passed.
    expect(await clockIn(60)).toEqual({ state: 'ok', issuedMs });
    expect(await clockIn(60.1)).toEqual({ state: 'suspect', issuedMs });
    expect(await clockIn(-0.003)).toEqual({ state: 'ok', issuedMs });
    expect(await clockIn(-0.004)).toEqual({ state: 'behind', issuedMs });
    expect(await clockIn(-20_000)).toEqual({ state: 'behind', issuedMs });
  });

  it('accepts no expired file where it is behind', async () => {
    await refreshedTestClient(repository, { store });
    const old = repository.inDays(-1);
    repository.targets.expires = old;
    await repository.publishWithSnapshot('targets');
    await expect(refreshedTestClient(repository, { store, nowMs: 0 })).rejects.toThrow(expired('targets'));
  });

  it('gets the time from the first timestamp where it starts in 1970', async () => {
    repository.snapshot.expires = repository.inDays(-1);
    await repository.publish('snapshot', 'timestamp');
    await expect(refreshedTestClient(repository, { store, nowMs: 0 })).rejects.toThrow(expired('snapshot'));
    repository.snapshot.expires = repository.inDays(1);
    repository.root.expires = repository.inDays(-1);
    await repository.publish('root', 'snapshot', 'timestamp');
    await expect(refreshedTestClient(repository, { store, nowMs: 0 })).rejects.toThrow(expired('root'));
  });

  it('is free of an `issued` in the far future once the timestamp key is replaced', async () => {
    repository.timestamp.issued = repository.inDays(10_000);
    repository.timestamp.expires = repository.inDays(10_001);
    await repository.publish('timestamp');
    await expect(refreshedTestClient(repository, { store })).rejects.toThrow(expired('root'));
    expect(await clockIn(0)).toMatchObject({ state: 'behind' });
    repository.timestamp.issued = repository.inDays(0);
    repository.timestamp.expires = repository.inDays(1);
    await repository.publish('timestamp');
    await expect(refreshedTestClient(repository, { store })).rejects.toThrow(expired('root'));
    repository.setSigners('timestamp', [newSigner()]);
    await repository.publish('root', 'timestamp');
    expect(trustedVersions(await refreshedTestClient(repository, { store }))).toEqual([2, 4, 1, 1]);
    expect(await clockIn(0)).toMatchObject({ state: 'ok' });
  });

  it('ignores a timestamp that expires before it was issued', async () => {
    repository.timestamp.issued = repository.inDays(31);
    await repository.publish('timestamp');
    await expect(refreshedTestClient(repository, { store })).rejects.toThrow(expired('timestamp'));
    expect(store.files.has('timestamp.json')).toBe(false);
  });

  it('that is far ahead is named in the refusal', async () => {
    await refreshedTestClient(repository, { store });
    const nowMs = repository.nowMs + 4000 * DAY_MS;
    await expect(refreshedTestClient(repository, { store, nowMs })).rejects.toThrow(
      expect.objectContaining({ data: expect.objectContaining({ clock: 'suspect' }) }),
    );
  });
});
