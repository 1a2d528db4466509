import { createHash } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory, readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  type Clock,
  checkTarget,
  DEFAULT_TRUST_LIMITS,
  delegatedSigners,
  DirectoryMetadataStore,
  type FoundTarget,
  type RoleSigners,
  TrustedSet,
  TufClient,
} from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import type { Gateway } from '../ports.ts';
import type { Spending } from '../state/spending.ts';
import { type Gateways, noGateway } from './gateways.ts';

/** Milliseconds: the age of a timestamp from which another gateway is asked as well. The origin renews it hourly. */
const STALE_MS = 2 * 3_600_000;
const MAX_DOCUMENT_BYTES = DEFAULT_TRUST_LIMITS.maxTargetFileBytes;
/** Product file, rollouts file, manifests and indices that are kept for times when no gateway answers. */
const MAX_DOCUMENTS = 16;
const SHA256_HEX = /^[0-9a-f]{64}$/;

/** What an agent's trust begins with. */
export type TrustStart =
  | { kind: 'root'; bytes: Uint8Array }
  /** SHA-256 of the first root, from a join token. The gateways have the bytes. */
  | { kind: 'hash'; rootSha256: string };

interface DocumentOptions {
  /** Only a target that the top-level targets list counts, which offline keys sign. */
  isTopLevel?: boolean;
  /** A longer one isn't fetched: then there is none. */
  maxBytes?: number;
  /** Who pays for what comes over the network. */
  payer?: Pick<Spending, 'pay'> | undefined;
}

/** The signed repository, as this device trusts it, through any gateway that answers. */
export class Trust {
  readonly #client: TufClient;
  readonly #gateways: Gateways;
  readonly #documents: string;
  readonly #now: () => number;
  /** The same object while the metadata is the same, so that what was checked with it needn't be checked again. */
  #signers: { by: TufClient['trusted']['targets']; signers: RoleSigners | undefined } | undefined;
  /** Only one gateway is asked at a time: a download's watcher must not turn a refresh to another gateway. */
  readonly #turn = pLimit(1);

  private constructor(client: TufClient, gateways: Gateways, documents: string, now: () => number) {
    this.#client = client;
    this.#gateways = gateways;
    this.#documents = documents;
    this.#now = now;
  }

  /** Whether this directory has a trusted root, in any of the files that keep one. */
  static async hasBegun(directory: string): Promise<boolean> {
    const store = new DirectoryMetadataStore(join(directory, 'trust'));
    try {
      await TufClient.open({ store, fetcher: { fetch: async () => undefined }, now: () => 0 });
      return true;
    } catch (error) {
      if (error instanceof SitecastError && error.code === 'SITECAST_TRUST_UNINITIALISED') return false;
      throw error;
    }
  }

  /**
   * @param start undefined: possible only where the directory has a root already
   * @throws SITECAST_ROOT_MISSING, SITECAST_ROOT_OTHER, SITECAST_ROOT_MISMATCH; the errors of gateways
   */
  static async open(
    directory: string,
    gateways: Gateways,
    { start, now, signal }: { start: TrustStart | undefined; now: () => number; signal: AbortSignal },
  ): Promise<Trust> {
    const metadata = join(directory, 'trust');
    const documents = join(directory, 'documents');
    await makeDirectory(metadata, 0o700);
    await makeDirectory(documents, 0o700);
    const store = new DirectoryMetadataStore(metadata);
    const options = { store, fetcher: gateways.metadata, targetFetcher: gateways.targets, now };
    if (start?.kind === 'root') await begin(store, start.bytes, now());
    let client: TufClient;
    try {
      client = await TufClient.open(options);
    } catch (error) {
      if (!(error instanceof SitecastError) || error.code !== 'SITECAST_TRUST_UNINITIALISED') throw error;
      if (start?.kind !== 'hash') throw nothingToTrust(error);
      await begin(store, await fetchRoot(gateways, start.rootSha256, signal), now());
      client = await TufClient.open(options);
    }
    return new Trust(client, gateways, documents, now);
  }

  clock(): Clock {
    return this.#client.clock();
  }

  get timestampVersion(): number {
    return this.#client.trusted.timestamp?.signed.version ?? 0;
  }

  /** The signers of assignments and acknowledgements; undefined before the first whole refresh. */
  get signers(): RoleSigners | undefined {
    const { targets } = this.#client.trusted;
    if (this.#signers?.by !== targets)
      this.#signers = { by: targets, signers: delegatedSigners(targets?.signed.delegations, 'rollouts') };
    return this.#signers?.signers;
  }

  /**
   * Follows the repository through the first gateway that has metadata as new as ours, or newer. A gateway with old metadata isn't
   * misbehaving; another one is asked as well.
   * @throws the first error, where no gateway would do
   */
  refresh(signal?: AbortSignal): Promise<void> {
    return this.#turn(() => this.#refresh(signal));
  }

  async #refresh(signal: AbortSignal | undefined): Promise<void> {
    let isRefreshed = false;
    let failure: unknown;
    for (const gateway of this.#gateways.inOrder) {
      if (isRefreshed && !this.#looksStale()) break;
      try {
        const refresh = (): Promise<void> => this.#client.refresh({ signal });
        await this.#gateways.attempt(gateway, () => this.#gateways.with(gateway, refresh));
        isRefreshed = true;
      } catch (error) {
        if (!(error instanceof SitecastError)) throw error;
        failure ??= error;
      }
    }
    if (!isRefreshed) throw failure;
  }

  /**
   * The verified bytes of a target, from disk where they were fetched before.
   * @returns undefined if the repository lists no such target
   * @throws SITECAST_METADATA_EXPIRED and others of docs/ERRORS.md under "Trust"
   */
  document(
    name: string,
    signal?: AbortSignal,
    options: DocumentOptions = {},
  ): Promise<Uint8Array | undefined> {
    return this.#turn(() => this.#document(name, signal, options));
  }

  /**
   * What fetching a target would cost, bytes.
   * @returns 0 where it is here; undefined where the repository lists no such target
   * @throws as `document`
   */
  absentBytes(name: string, signal?: AbortSignal): Promise<number | undefined> {
    return this.#turn(async () => {
      const found = await this.#gateways.eachRepository(
        () => this.#client.findTarget(name, { signal }),
        signal,
      );
      return found && ((await this.#stored(found)) ? 0 : found.file.length);
    });
  }

  async #document(
    name: string,
    signal: AbortSignal | undefined,
    { isTopLevel = false, maxBytes, payer }: DocumentOptions,
  ): Promise<Uint8Array | undefined> {
    const found = await this.#gateways.eachRepository(
      () => this.#client.findTarget(name, { signal }),
      signal,
    );
    if (!found || (isTopLevel && found.role !== 'targets')) return undefined;
    const stored = await this.#stored(found);
    if (stored) return stored;
    if (maxBytes !== undefined && found.file.length > maxBytes) return undefined;
    const fetch = (onSent?: (lengthBytes: number) => void) =>
      this.#client.fetchTarget(found, { signal, onSent });
    const bytes = await this.#gateways.eachRepository(
      () => (payer ? payer.pay(found.file.length, fetch) : fetch()),
      signal,
    );
    const path = this.#pathOf(found);
    if (path !== undefined) {
      await prune(this.#documents);
      await writeFileDurably(path, bytes);
    }
    return bytes;
  }

  async #stored(found: FoundTarget): Promise<Uint8Array | undefined> {
    const path = this.#pathOf(found);
    if (path === undefined) return undefined;
    try {
      const bytes = await readFileBounded(path, MAX_DOCUMENT_BYTES);
      checkTarget(found, bytes);
      return bytes;
    } catch (error) {
      // Not fetched yet, or damaged since. It is fetched again.
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  #pathOf({ file }: FoundTarget): string | undefined {
    const { sha256 } = file.hashes;
    return sha256 !== undefined && SHA256_HEX.test(sha256) ? join(this.#documents, sha256) : undefined;
  }

  #looksStale(): boolean {
    const { issuedMs, state } = this.clock();
    // By a clock that is behind, no metadata looks old. Only another gateway can show that there is newer metadata.
    return state === 'behind' || (issuedMs !== undefined && this.#now() - issuedMs > STALE_MS);
  }
}

/** Removes the oldest documents, so that there is room for one more. */
async function prune(directory: string): Promise<void> {
  const found = [];
  for (const name of await readdir(directory)) {
    const path = join(directory, name);
    found.push({ path, atMs: name.endsWith('.partial') ? 0 : (await stat(path)).mtimeMs });
  }
  found.sort((one, other) => other.atMs - one.atMs);
  for (const { path } of found.slice(MAX_DOCUMENTS - 1)) await rm(path, { force: true });
}

async function begin(store: DirectoryMetadataStore, bytes: Uint8Array, nowMs: number): Promise<void> {
  if ((await TufClient.init(store, bytes, nowMs)) !== 'other') return;
  throw new SitecastError(
    'conflict',
    'SITECAST_ROOT_OTHER',
    'the data directory was begun with another root than the one given now',
    { hint: 'give the same root, or none; or an empty --data directory to begin anew' },
  );
}

// Any machine in a gateway's place can answer, such as a captive portal. The worst answers are a page, an endless one, and the root of
// another fleet. Only the last shows that token and gateway don't belong together. The others count as the answer of no gateway.

function fetchRoot(gateways: Gateways, rootSha256: string, signal: AbortSignal): Promise<Uint8Array> {
  return gateways.eachRepository(async gateway => {
    const bytes = await firstRoot(gateway, signal);
    if (createHash('sha256').update(bytes).digest('hex') === rootSha256) return bytes;
    throw new SitecastError(
      'untrusted',
      'SITECAST_ROOT_MISMATCH',
      `${gateway.url} has no root that is the one the join token names`,
      { hint: 'either the token is of another fleet, or the gateway is', data: { url: gateway.url } },
    );
  }, signal);
}

/** @throws SITECAST_GATEWAY_UNREACHABLE for an answer that is no root */
async function firstRoot(gateway: Gateway, signal: AbortSignal): Promise<Uint8Array> {
  try {
    const maxBytes = DEFAULT_TRUST_LIMITS.maxRootBytes;
    const bytes = await gateway.metadata.fetch('1.root.json', { maxBytes, signal });
    if (bytes === undefined) throw noGateway(gateway.url, 'it has no root');
    // Signed by its own keys. Its hash shows whether it is the right one.
    return new TrustedSet(bytes, 0).root.bytes;
  } catch (cause) {
    if (!(cause instanceof SitecastError) || cause.kind === 'unreachable') throw cause;
    throw noGateway(gateway.url, 'what it answers is no root; is it a gateway?', cause);
  }
}

function nothingToTrust(cause: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_ROOT_MISSING', 'nothing says yet whom to trust', {
    hint: "start with --root FILE (the operator's first root) or with --token",
    cause,
  });
}
