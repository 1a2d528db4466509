import { createHash } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import type { JoinToken } from '@sitecast/shared/fleet';
import { DEFAULT_TRUST_LIMITS, type MetadataStore, TufClient } from '@sitecast/shared/trust';
import { Backoff, sleep } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import { withinTime } from '@sitecast/shared/upstream';
import type { Source, Sources } from '../mirror/sources.ts';

// Who answers: upstreams, and members of the fleet's network. The worst one hangs, sends very slowly, or sends another root: it delays one
// round by the times below, and a neighbour then isn't asked for a while. The hash in the join token decides.

/** How long to wait between two rounds, in ms, while no source has the first root. */
const MIN_BACKOFF_MS = 250;
const MAX_BACKOFF_MS = 30_000;
/** How long upstreams may take for the first root, and neighbours after them. A root has a few KiB. */
const UPSTREAMS_WITHIN_MS = 60_000;
const NEIGHBOURS_WITHIN_MS = 20_000;

interface PinnedRootDeps {
  store: MetadataStore;
  /** The bytes of --root FILE. */
  rootFile: Uint8Array | undefined;
  token: JoinToken | undefined;
  /** The possible sources of the first root. */
  sources: Pick<Sources, 'forFirstRoot' | 'failed'>;
  nowMs: number;
  log: Log;
  signal: AbortSignal;
  /** Default: 20 seconds. */
  neighboursWithinMs?: number;
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

/** Asks all upstreams at once, then some neighbours at once, until one sends the root that the token names. */
async function fetchFirstRoot(deps: PinnedRootDeps, { rootSha256 }: JoinToken): Promise<Uint8Array> {
  const { sources, log, signal, neighboursWithinMs = NEIGHBOURS_WITHIN_MS } = deps;
  const backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  for (;;) {
    signal.throwIfAborted();
    const waitMs = Math.round(backoff.next());
    const first = (group: readonly Source[], withinMs: number) =>
      firstRight(
        group.map(source => withinTime(source, withinMs)),
        deps,
        { rootSha256, waitMs },
      );
    const { upstreams } = sources.forFirstRoot();
    const found =
      (await first(upstreams, UPSTREAMS_WITHIN_MS)) ??
      (await first(sources.forFirstRoot().neighbours, neighboursWithinMs));
    if (found) return found;
    log.debug({ waitMs }, 'waiting for an upstream that gives the first root');
    await sleep(waitMs, signal, { ref: true });
  }
}

/** @returns the first right answer, undefined where there is none. The other requests are ended */
async function firstRight(
  group: readonly Source[],
  { sources, log, signal }: PinnedRootDeps,
  { rootSha256, waitMs }: { rootSha256: string; waitMs: number },
): Promise<Uint8Array | undefined> {
  const over = new AbortController();
  const stop = AbortSignal.any([signal, over.signal]);
  const ask = async (source: Source): Promise<Uint8Array> => {
    try {
      return await fetchRoot(source, rootSha256, stop);
    } catch (error) {
      if (stop.aborted || !(error instanceof SitecastError)) throw error;
      // A gateway that has no root yet will have one soon.
      if (error.kind !== 'notFound') {
        sources.failed(source, error);
        logFailure(log, { source, error, waitMs });
      }
      throw error;
    }
  };
  try {
    return await Promise.any(group.map(ask));
  } catch (error) {
    signal.throwIfAborted();
    const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
    const fault = errors.find(one => one instanceof Error && !(one instanceof SitecastError));
    if (fault instanceof Error) throw fault;
    return undefined;
  } finally {
    over.abort();
  }
}

/** @throws SITECAST_METADATA_MISSING (notFound), SITECAST_ROOT_DIFFERS (untrusted), those of the fetcher */
async function fetchRoot({ metadata }: Source, rootSha256: string, signal: AbortSignal): Promise<Uint8Array> {
  const bytes = await metadata.fetch('1.root.json', {
    maxBytes: DEFAULT_TRUST_LIMITS.maxRootBytes,
    signal,
  });
  if (bytes === undefined)
    throw new SitecastError('notFound', 'SITECAST_METADATA_MISSING', 'it has no first root');
  if (createHash('sha256').update(bytes).digest('hex') === rootSha256) return bytes;
  throw new SitecastError(
    'untrusted',
    'SITECAST_ROOT_DIFFERS',
    'it is not the one that the join token names',
    {
      hint: 'Make a new join token at the origin that is meant.',
    },
  );
}

function logFailure(
  log: Log,
  { source, error, waitMs }: { source: Source; error: SitecastError; waitMs: number },
): void {
  const { code, message: detail, hint = 'Is the address right, and does the origin run?' } = error;
  const cause = causeOf(error);
  const fields = { upstream: source.url, code, detail, ...(cause && { cause }), hint, waitMs };
  if (error.kind === 'untrusted')
    log.warn(fields, 'an upstream gave another first root than the join token names');
  else log.warn(fields, 'an upstream did not give the first root');
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
