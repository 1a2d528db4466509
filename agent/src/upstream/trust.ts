import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { makeDirectory } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type Clock,
  checkTarget,
  DEFAULT_TRUST_LIMITS,
  delegatedSigners,
  DirectoryMetadataStore,
  type FoundTarget,
  type MetadataStore,
  type RoleSigners,
  TrustedSet,
  TufClient,
} from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import type { Gateway } from '../ports.ts';
import { OverBound, type Spending } from '../state/spending.ts';
import { DocumentFiles } from './document-files.ts';
import { type Gateways, noGateway } from './gateways.ts';
import { KeptRoots } from './kept-roots.ts';
import type { NearbySources } from './nearby-sources.ts';

/** Milliseconds: the age of a timestamp from which another gateway is asked as well. The origin renews it hourly. */
const STALE_MS = 2 * 3_600_000;
const ROOT_PATH = /^(\d{1,15})\.root\.json$/;

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
  /** Who pays for what comes over the network. One that may not pay so much, after sources that failed, counts as `maxBytes` does. */
  payer?: Pick<Spending, 'pay'> | undefined;
}

/** The signed repository, as this device trusts it, through any gateway that answers. */
export class Trust {
  readonly #client: TufClient;
  readonly #gateways: Gateways;
  readonly #store: KeptRoots;
  readonly #documents: DocumentFiles;
  /** Other devices that may have the repository's files; undefined where this one has no peers. */
  #nearby: NearbySources | undefined;
  readonly #now: () => number;
  /** The same object while the metadata is the same, so that what was checked with it needn't be checked again. */
  #signers: { by: TufClient['trusted']['targets']; signers: RoleSigners | undefined } | undefined;
  /** Only one gateway is asked at a time: a download's watcher must not turn a refresh to another gateway. */
  readonly #turn = pLimit(1);

  private constructor(
    client: TufClient,
    gateways: Gateways,
    kept: { store: KeptRoots; documents: DocumentFiles },
    now: () => number,
  ) {
    this.#client = client;
    this.#gateways = gateways;
    this.#store = kept.store;
    this.#documents = kept.documents;
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
    await makeDirectory(metadata, 0o700);
    const documents = await DocumentFiles.open(join(directory, 'documents'));
    const store = new KeptRoots(new DirectoryMetadataStore(metadata));
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
    return new Trust(client, gateways, { store, documents }, now);
  }

  /** From now on other devices are asked where no gateway can be followed. */
  useNearby(nearby: NearbySources): void {
    this.#nearby = nearby;
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
   * misbehaving; another one is asked as well. Where none of them would do, it follows what other devices of the site have.
   * @throws the first error, where no gateway would do, also where another device was followed: no gateway confirms what is trusted now
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
    if (isRefreshed) {
      this.#nearby?.noteGateway();
      return;
    }
    await this.#followNearby(signal);
    throw failure;
  }

  async #followNearby(signal: AbortSignal = new AbortController().signal): Promise<void> {
    const refresh = (): Promise<void> => this.#client.refresh({ signal });
    await this.#nearby?.follow(source => this.#gateways.with(source, refresh), signal);
  }

  /** Whether another device claims to have news while no gateway can be followed. Nothing of the claim is verified. */
  async hasNewsNearby(signal: AbortSignal): Promise<boolean> {
    return (await this.#nearby?.haveNews(signal)) ?? false;
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
      const found = await this.#fromSources(() => this.#client.findTarget(name, { signal }), signal);
      return found && ((await this.#stored(found)) ? 0 : found.file.length);
    });
  }

  async #document(
    name: string,
    signal: AbortSignal | undefined,
    { isTopLevel = false, maxBytes, payer }: DocumentOptions,
  ): Promise<Uint8Array | undefined> {
    const found = await this.#fromSources(() => this.#client.findTarget(name, { signal }), signal);
    if (!found || (isTopLevel && found.role !== 'targets')) return undefined;
    const stored = await this.#stored(found);
    if (stored) return stored;
    if (maxBytes !== undefined && found.file.length > maxBytes) return undefined;
    const fetch = (onSent?: (lengthBytes: number) => void) =>
      this.#client.fetchTarget(found, { signal, onSent });
    const bytes = await this.#fromSources(
      isNearby => (payer && !isNearby ? paid(payer, found.file.length, fetch, signal) : fetch()),
      signal,
    );
    if (!bytes) return undefined;
    await this.#documents.write(found.file.hashes.sha256, bytes, this.#listedDigests());
    return bytes;
  }

  /**
   * Asks one source after the other: the gateways; but while none of them can be followed, other devices first, for a line that swallows
   * packets would be waited for each time.
   * @param work throws for an answer that is of no use
   * @throws the gateways' error
   */
  async #fromSources<T>(
    work: (isNearby: boolean) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    if (this.#nearby?.isAlone === true) {
      const given = await this.#nearby.each(source => this.#gateways.with(source, () => work(true)));
      signal?.throwIfAborted();
      if (given) return given.found;
    }
    return this.#gateways.eachRepository(() => work(false), signal);
  }

  /** What the top-level targets list now: manifests, indexes and product files, but none of the many versions of a rollouts file. */
  #listedDigests(): ReadonlySet<string> {
    const { targets } = this.#client.trusted;
    const files = Object.values(targets?.signed.targets ?? {});
    return new Set(files.flatMap(({ hashes }) => hashes.sha256 ?? []));
  }

  /**
   * Metadata for other devices of the site.
   * @param path below /metadata/
   * @returns undefined where it isn't here
   */
  async heldMetadata(path: string): Promise<Uint8Array | undefined> {
    const held = await this.#client.held(path);
    const version = ROOT_PATH.exec(path)?.[1];
    if (held || version === undefined) return held;
    return this.#store.root(Number(version), DEFAULT_TRUST_LIMITS.maxRootBytes);
  }

  /** A target's bytes, not verified. @param sha256 of the bytes, in hex. @returns undefined where it isn't here */
  heldDocument(sha256: string): Promise<Uint8Array | undefined> {
    return this.#documents.read(sha256);
  }

  async #stored(found: FoundTarget): Promise<Uint8Array | undefined> {
    const bytes = await this.#documents.read(found.file.hashes.sha256);
    if (!bytes) return undefined;
    try {
      checkTarget(found, bytes);
      return bytes;
    } catch (error) {
      // Damaged since. It is fetched again.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  #looksStale(): boolean {
    const { issuedMs, state } = this.clock();
    // By a clock that is behind, no metadata looks old. Only another gateway can show that there is newer metadata.
    return state === 'behind' || (issuedMs !== undefined && this.#now() - issuedMs > STALE_MS);
  }
}

/** @returns undefined where no more may be spent: it isn't asked for */
async function paid<T>(
  payer: Pick<Spending, 'pay'>,
  lengthBytes: number,
  work: (onSent: (lengthBytes: number) => void) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T | undefined> {
  try {
    return await payer.pay(lengthBytes, work, signal);
  } catch (error) {
    if (error instanceof OverBound) return undefined;
    throw error;
  }
}

async function begin(store: MetadataStore, bytes: Uint8Array, nowMs: number): Promise<void> {
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
