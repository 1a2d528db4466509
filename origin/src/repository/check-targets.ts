import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import { cutText } from '@sitecast/shared/text';
import {
  delegatedSigners,
  type Metadata,
  type SignedTargets,
  type TargetFile,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';
import { MAX_TARGET_FILE_BYTES } from '../staging/staged-files.ts';
import { checkNamesOnlineKey } from './check-root.ts';

const SHA256 = /^[0-9a-f]{64}$/;
const DELEGATED_PATHS = { rollouts: 'rollouts/*', deltas: 'deltas/*' } as const;

/** A target file as the origin serves it. */
export interface ListedFile {
  name: string;
  sha256: string;
  lengthBytes: number;
}

/** Target files by what is listed: those already published, or else the staged ones. */
export interface TargetSource {
  /**
   * @returns bytes of exactly the listed hash and length
   * @throws SITECAST_FILES_MISSING (conflict)
   */
  read(file: ListedFile): Promise<Buffer>;
}

/** One release as targets.json lists it. */
export interface ListedRelease {
  product: string;
  counter: number;
  manifest: ListedFile;
  index: ListedFile;
}

/** What a targets.json lists, by product. */
export interface Listing {
  /** Counter → release. */
  releases: Map<string, Map<number, ListedRelease>>;
  products: Map<string, ListedFile>;
}

/**
 * Checks signatures and delegations of top-level targets under a root; not their version and expiry.
 * @param current those in force
 * @param keys the origin's own; undefined for targets that were in force before: they may name others
 * @throws SITECAST_SIGNATURES_MISSING, SITECAST_DELEGATIONS_WRONG, SITECAST_ONLINE_KEY_WRONG
 */
export function checkTargetsMetadata(
  targets: Metadata<'targets'>,
  root: Metadata<'root'>,
  current: Metadata<'targets'> | undefined,
  keys: OnlineKeys | undefined,
): void {
  verifyThreshold(targets, topLevelSigners(root.signed, 'targets'), { role: 'targets', step: '5.6.3' });
  const { delegations } = targets.signed;
  for (const role of ['rollouts', 'deltas'] as const) {
    const signers = delegatedSigners(delegations, role);
    const found = delegations?.roles?.find(({ name }) => name === role);
    if (!signers || found?.paths?.length !== 1 || found.paths[0] !== DELEGATED_PATHS[role]) {
      throw delegationsWrong(`targets must delegate exactly ${DELEGATED_PATHS[role]} to ${role}`);
    }
    if (keys) checkNamesOnlineKey(role, signers, delegatedSigners(current?.signed.delegations, role), keys);
  }
  if (delegations?.roles?.length !== 2) {
    throw delegationsWrong('targets may delegate to the roles rollouts and deltas alone');
  }
}

/**
 * Reads what a targets.json lists.
 * @throws SITECAST_TARGET_NAME_REFUSED, SITECAST_TARGET_ENTRY_INVALID, SITECAST_RELEASE_INCOMPLETE,
 *   SITECAST_PRODUCT_MISSING (badInput)
 */
export function readListing({ targets }: SignedTargets): Listing {
  const listing: Listing = { releases: new Map(), products: new Map() };
  const halves = new Map<string, Partial<ListedRelease> & { product: string; counter: number }>();
  for (const [name, entry] of Object.entries(targets)) {
    const parsed = parseTargetName(name);
    if (!parsed) throw nameRefused(name);
    const file = listedFile(name, entry);
    if (parsed.kind === 'product') {
      listing.products.set(parsed.product, file);
      continue;
    }
    const key = `${parsed.product}-${parsed.counter}`;
    const half = halves.get(key) ?? { product: parsed.product, counter: parsed.counter };
    half[parsed.kind] = file;
    halves.set(key, half);
  }
  for (const { product, counter, manifest, index } of halves.values()) {
    if (!manifest || !index) throw incomplete(product, counter, manifest ? 'index' : 'manifest');
    if (!listing.products.has(product)) throw productMissing(product);
    const ofProduct = listing.releases.get(product) ?? new Map<number, ListedRelease>();
    ofProduct.set(counter, { product, counter, manifest, index });
    listing.releases.set(product, ofProduct);
  }
  return listing;
}

/** Where a target file lies below the targets folder of a consistent snapshot. */
export function targetFilePath({ name, sha256 }: ListedFile): string {
  const slash = name.lastIndexOf('/') + 1;
  return `${name.slice(0, slash)}${sha256}.${name.slice(slash)}`;
}

function listedFile(name: string, { hashes, length }: TargetFile): ListedFile {
  const { sha256 } = hashes;
  if (sha256 === undefined || !SHA256.test(sha256) || Object.keys(hashes).length !== 1) {
    throw entryInvalid(name, 'must carry one hash, a sha256 in lower-case hexadecimal digits');
  }
  if (length < 1 || length > MAX_TARGET_FILE_BYTES) {
    throw entryInvalid(name, `must have from 1 to ${MAX_TARGET_FILE_BYTES} bytes`);
  }
  return { name, sha256, lengthBytes: length };
}

function delegationsWrong(message: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_DELEGATIONS_WRONG', message);
}

function nameRefused(target: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_TARGET_NAME_REFUSED',
    `${JSON.stringify(cutText(target, 200))} is no name of a release manifest, an index or a product file`,
  );
}

function entryInvalid(target: string, what: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_TARGET_ENTRY_INVALID', `the target ${target} ${what}`, {
    data: { target },
  });
}

function incomplete(product: string, counter: number, missing: 'manifest' | 'index'): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_RELEASE_INCOMPLETE',
    `release ${counter} of ${product} lacks its ${missing}: both are listed, or neither is`,
    { data: { product, counter, missing } },
  );
}

function productMissing(product: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_PRODUCT_MISSING',
    `targets lists releases of ${product}, but not products/${product}.json`,
    { data: { product } },
  );
}
