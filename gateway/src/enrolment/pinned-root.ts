import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import type { JoinToken } from '@sitecast/shared/fleet';
import {
  DEFAULT_TRUST_LIMITS,
  type MetadataFetcher,
  type MetadataStore,
  TufClient,
} from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { Sources } from '../mirror/sources.ts';

/** How often it asks for the first root, milliseconds, while nobody gives it. */
const MIN_BACKOFF_MS = 250;
const MAX_BACKOFF_MS = 30_000;

interface PinnedRootDeps {
  store: MetadataStore;
  /** The bytes of --root FILE. */
  rootFile: Uint8Array | undefined;
  token: JoinToken | undefined;
  /** Whoever may give the first root: the upstreams, then neighbours as they come. */
  sources: Pick<Sources, 'inOrder'>;
  nowMs: number;
  log: Log;
  signal: AbortSignal;
}

/**
 * Makes sure that there is a trusted root: that of --root, which must be the data directory's if that has one; or the data directory's; or
 * the first root, whose hash the join token names. There is no trust on first use.
 * @throws SITECAST_ROOT_DIFFERS (conflict), SITECAST_ROOT_MISSING (badInput), the signal's reason
 */
export async function pinRoot(deps: PinnedRootDeps): Promise<void> {
  const { store, rootFile, nowMs } = deps;
  if (rootFile) {
    if ((await TufClient.init(store, rootFile, nowMs)) === 'other') throw differs();
    return;
  }
  if (await isBegun(deps)) return;
  if (!deps.token)
    throw new SitecastError('badInput', 'SITECAST_ROOT_MISSING', 'nothing says whom to trust', {
      hint: 'Give --root FILE (the root.json of your operator), or --token with a join token.',
    });
  await TufClient.init(store, await fetchFirstRoot(deps, deps.token), nowMs);
}

async function isBegun({ store, nowMs }: PinnedRootDeps): Promise<boolean> {
  try {
    await TufClient.open({ store, fetcher: { fetch: async () => undefined }, now: () => nowMs });
    return true;
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_TRUST_UNINITIALISED') return false;
    throw error;
  }
}

async function fetchFirstRoot(
  { sources, log, signal }: PinnedRootDeps,
  { rootSha256 }: JoinToken,
): Promise<Uint8Array> {
  const backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  for (;;) {
    signal.throwIfAborted();
    const waitMs = Math.round(backoff.next());
    for (const { url, metadata } of sources.inOrder()) {
      const bytes = await fetchRoot(metadata, { url, waitMs, log, signal });
      if (bytes === undefined) continue;
      if (createHash('sha256').update(bytes).digest('hex') === rootSha256) return bytes;
      log.warn(
        { upstream: url, waitMs, hint: 'Make a new join token at the origin that is meant.' },
        'an upstream gave another first root than the join token names',
      );
    }
    log.debug({ waitMs }, 'waiting for an upstream that gives the first root');
    await sleep(waitMs, signal, { ref: true });
  }
}

async function fetchRoot(
  metadata: MetadataFetcher,
  { url, waitMs, log, signal }: { url: string; waitMs: number; log: Log; signal: AbortSignal },
): Promise<Uint8Array | undefined> {
  try {
    return await metadata.fetch('1.root.json', { maxBytes: DEFAULT_TRUST_LIMITS.maxRootBytes, signal });
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof SitecastError)) throw error;
    const cause = causeOf(error);
    log.warn(
      {
        upstream: url,
        code: error.code,
        detail: error.message,
        ...(cause && { cause }),
        hint: error.hint ?? 'Is the address right, and does the origin run?',
        waitMs,
      },
      'an upstream did not give the first root',
    );
    return undefined;
  }
}

/** The system's error code, such as ECONNREFUSED. */
function causeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause)
    if ('code' in at && typeof at.code === 'string' && !at.code.startsWith('SITECAST_')) return at.code;
  return undefined;
}

function differs(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ROOT_DIFFERS',
    'the data directory was begun with another root than --root gives',
    { hint: 'Give the same root, none at all, or another --data.' },
  );
}
