import { TufClient } from '../client.ts';
import type { TrustLimits } from '../limits.ts';
import type { MetadataStore } from '../ports.ts';
import { MemoryMetadataStore } from '../stores.ts';
import type { TestRepository } from './repository.ts';

interface TestClientOptions {
  store?: MetadataStore;
  /** Milliseconds since 1970; the repository's own time unless given. */
  nowMs?: number;
  limits?: Partial<TrustLimits>;
}

/** A client of a test repository, opened but not yet refreshed. An empty store is initialised with the repository's first root. */
export async function openTestClient(
  repository: TestRepository,
  { store = new MemoryMetadataStore(), nowMs = repository.nowMs, limits = {} }: TestClientOptions = {},
): Promise<TufClient> {
  await TufClient.init(store, repository.bytesOf('root', 1), nowMs);
  return TufClient.open({
    store,
    fetcher: repository.metadata,
    targetFetcher: repository.targetFiles,
    now: () => nowMs,
    limits,
  });
}

/** A client that has followed the repository up to now. */
export async function refreshedTestClient(
  repository: TestRepository,
  options: TestClientOptions = {},
): Promise<TufClient> {
  const client = await openTestClient(repository, options);
  await client.refresh();
  return client;
}

/** The versions that a client trusts: root, timestamp, snapshot, targets. */
export function trustedVersions({ trusted }: TufClient): (number | undefined)[] {
  const { root, timestamp, snapshot, targets } = trusted;
  return [root, timestamp, snapshot, targets].map(file => file?.signed.version);
}
