import { makeDirectory, readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  DirectoryMetadataStore,
  HttpFetcher,
  type SignedRoot,
  type SignedTargets,
  TufClient,
} from '@sitecast/shared/trust';
import { blameForFuture } from './clocks.ts';
import type { OriginClient } from './client.ts';
import { note } from '../output.ts';
import type { TrustOptions } from '../settings.ts';

const MAX_ROOT_FILE_BYTES = 512 * 1024;
/** Roles whose expired metadata can be signed again, or whose key can be rotated. */
const RENEWABLE = ['root', 'timestamp', 'snapshot', 'targets'];

/** The repository, verified from this operator's own root. */
export interface RepositoryView {
  readonly root: SignedRoot;
  readonly targets: SignedTargets;
  /** The bytes of a target, checked against the targets metadata; undefined for a name that isn't listed. */
  file(target: string): Promise<Buffer | undefined>;
}

/**
 * Follows the origin's repository from the operator's root. The result is signed by the keys that the root names, and no older than
 * what was seen before.
 * @param forRenewal accepts expired metadata, so that they or their keys can be renewed
 */
export async function openRepository(
  options: TrustOptions,
  origin: OriginClient,
  { forRenewal = false } = {},
): Promise<RepositoryView> {
  const client = await openClient(options, origin);
  try {
    await client.refresh();
  } catch (error) {
    // Every change makes a new version of the targets, which renews expired ones.
    const bearable = forRenewal ? RENEWABLE : ['targets'];
    if (!isExpired(error, bearable)) throw await explained(error, origin);
  }
  const { state, issuedMs } = client.clock();
  if (state === 'behind' && issuedMs !== undefined) {
    const { message, hint } = await blameForFuture(issuedMs, origin);
    note(`warning: ${message}; ${hint}`);
  }
  return viewOf(client, options);
}

/** The state that was seen last, for machines that sign without a network. */
export async function storedRepository(options: TrustOptions): Promise<RepositoryView> {
  return viewOf(await openClient(options, undefined), options);
}

function isExpired(error: unknown, roles: readonly string[]): error is SitecastError {
  return (
    error instanceof SitecastError &&
    error.code === 'SITECAST_METADATA_EXPIRED' &&
    roles.includes(String(error.data.role))
  );
}

/** Replaces the error for metadata that only a timestamp from the future makes look expired. They need no renewal. */
async function explained(error: unknown, origin: OriginClient): Promise<unknown> {
  if (!isExpired(error, RENEWABLE) || error.data.clock !== 'behind') return error;
  const { message, hint } = await blameForFuture(Date.parse(String(error.data.time)), origin);
  const { kind, code, data } = error;
  return new SitecastError(kind, code, `${String(data.role)} has expired by that: ${message}`, {
    hint,
    data,
    cause: error,
  });
}

async function openClient(
  { root, state }: TrustOptions,
  origin: OriginClient | undefined,
): Promise<TufClient> {
  await makeDirectory(state, 0o700);
  const store = new DirectoryMetadataStore(state);
  const begun = await TufClient.init(store, await readRoot(root), Date.now());
  if (begun === 'other') {
    throw new SitecastError(
      'conflict',
      'SITECAST_ROOT_DIFFERS',
      `${state} was begun with another root than ${root}`,
      {
        hint: 'give the right --root, or another --state folder for this repository',
      },
    );
  }
  const offline = { fetch: () => Promise.reject(new Error('no origin to ask')) };
  return TufClient.open({
    store,
    fetcher: origin ? new HttpFetcher(new URL('metadata/', origin.url), origin) : offline,
    targetFetcher: origin ? new HttpFetcher(new URL('targets/', origin.url), origin) : offline,
    now: Date.now,
  });
}

/** Whether the root file exists. */
export async function hasRoot({ root }: TrustOptions): Promise<boolean> {
  try {
    await readRoot(root);
    return true;
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_ROOT_MISSING') return false;
    throw error;
  }
}

async function readRoot(path: string): Promise<Buffer> {
  try {
    return await readFileBounded(path, MAX_ROOT_FILE_BYTES);
  } catch (error) {
    if (!isSystemError(error, 'ENOENT')) throw error;
    throw new SitecastError('badInput', 'SITECAST_ROOT_MISSING', `there's no ${path} to start trust from`, {
      hint: 'give --root FILE: the root.json that `sitecast init` wrote (get it from whoever founded the repository, not from the origin)',
    });
  }
}

function isLost(error: unknown): boolean {
  return error instanceof SitecastError && error.code === 'SITECAST_TARGET_MISSING';
}

function lostTarget(target: string, cause: unknown): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_TARGET_MISSING',
    `the origin has lost ${target}, which it lists`,
    {
      hint: '`sitecast status` shows what else; stop the origin and run sitecast-origin recover --damaged-only --from GATEWAY, or submit the draft again, if one brought it',
      data: { target },
      cause,
    },
  );
}

function viewOf(client: TufClient, { state }: Pick<TrustOptions, 'state'>): RepositoryView {
  const { root, targets } = client.trusted;
  const known = (): SignedTargets => {
    if (targets) return targets.signed;
    throw new SitecastError(
      'untrusted',
      'SITECAST_TRUST_INCOMPLETE',
      `nothing is known here of what is published: ${state} (--state) holds no verified metadata`,
      {
        hint: 'give --origin; or, on a machine without a network, --state with a copy of that folder from one that has run a command with --origin',
      },
    );
  };
  return {
    root: root.signed,
    get targets() {
      return known();
    },
    file: async target => {
      const file = Object.hasOwn(known().targets, target) ? known().targets[target] : undefined;
      if (!file) return undefined;
      try {
        return Buffer.from(await client.fetchTarget({ name: target, role: 'targets', file }));
      } catch (error) {
        throw isLost(error) ? lostTarget(target, error) : error;
      }
    },
  };
}
