import { SitecastError } from '@sitecast/shared/errors';
import { type DeltaName, parseTargetName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import { cutText } from '@sitecast/shared/text';
import { roleTargets, type SignedTargets, type TargetFile } from '@sitecast/shared/trust';
import type { Committed } from './committed.ts';
import { MAX_TARGET_FILE_BYTES, type Referenced, type TargetRef } from './repository-store.ts';
import { ROLES } from './roles.ts';

const SHA256 = /^[0-9a-f]{64}$/;

/** A target file as metadata lists it. */
export interface ListedFile extends TargetRef {
  lengthBytes: number;
}

/** A target file that published metadata lists. */
export interface PublishedFile extends ListedFile {
  role: 'targets' | 'rollouts' | 'deltas';
}

/** One release as targets.json lists it. */
export interface ListedRelease {
  product: string;
  counter: number;
  manifest: ListedFile;
  index: ListedFile;
}

/** A delta as metadata lists it. */
export interface ListedDelta extends DeltaName {
  recipe: PublishedFile;
  /** Names the chunks of its patches. */
  patchIndex: PublishedFile;
}

/** Tells deltas apart in a map or set. */
export const deltaKey = ({ product, from, to }: DeltaName): string => `${product} ${from} ${to}`;

/** What a targets.json lists, by product. */
export interface Listing {
  /** Counter → release. */
  releases: Map<string, Map<number, ListedRelease>>;
  products: Map<string, ListedFile>;
  /** The deltas that operators have signed, by `deltaKey`. */
  deltas: Map<string, ListedDelta>;
}

export const NOTHING_LISTED: Listing = { releases: new Map(), products: new Map(), deltas: new Map() };

/**
 * Reads what a targets.json lists.
 * @throws SITECAST_TARGET_NAME_REFUSED, SITECAST_TARGET_ENTRY_INVALID, SITECAST_RELEASE_INCOMPLETE,
 *   SITECAST_DELTA_INCOMPLETE, SITECAST_PRODUCT_MISSING (badInput)
 */
export function readListing({ targets }: SignedTargets): Listing {
  const listing: Listing = { releases: new Map(), products: new Map(), deltas: new Map() };
  const halves = new Map<string, HalfRelease>();
  const halfDeltas = new Map<string, HalfDelta>();
  for (const [name, entry] of Object.entries(targets)) {
    const parsed = parseTargetName(name);
    const file = listedFile(name, entry);
    if (parsed?.kind === 'product') {
      listing.products.set(parsed.product, file);
      continue;
    }
    if (parsed === undefined) throw nameRefused(name);
    if ('from' in parsed) {
      const { kind, product, from, to } = parsed;
      const half = halfDeltas.get(deltaKey(parsed)) ?? { product, from, to };
      half[kind] = publishedFileOf(file);
      halfDeltas.set(deltaKey(parsed), half);
      continue;
    }
    const { kind, product, counter } = parsed;
    const key = `${product}-${counter}`;
    const half = halves.get(key) ?? { product, counter };
    half[kind] = file;
    halves.set(key, half);
  }
  for (const half of halves.values()) addRelease(listing, half);
  for (const [key, { recipe, patchIndex, ...name }] of halfDeltas) {
    if (!recipe || !patchIndex) throw deltaIncomplete(name, recipe ? patchIndexTarget : recipeTarget);
    listing.deltas.set(key, { ...name, recipe, patchIndex });
  }
  return listing;
}

type HalfRelease = Partial<ListedRelease> & { product: string; counter: number };
type HalfDelta = Partial<ListedDelta> & DeltaName;

function addRelease(
  { products, releases }: Listing,
  { product, counter, manifest, index }: HalfRelease,
): void {
  if (!manifest || !index) throw incomplete(product, counter, manifest ? 'index' : 'manifest');
  if (!products.has(product)) throw productMissing(product);
  const ofProduct = releases.get(product) ?? new Map<number, ListedRelease>();
  ofProduct.set(counter, { product, counter, manifest, index });
  releases.set(product, ofProduct);
}

export function releasesIn({ releases }: Listing): ListedRelease[] {
  return [...releases.values()].flatMap(ofProduct => [...ofProduct.values()]);
}

export function releasesOf({ targets }: Committed): ListedRelease[] {
  return releasesIn(readListing(targets.signed));
}

export function listedFiles(listing: Listing): ListedFile[] {
  const ofReleases = releasesIn(listing).flatMap(({ manifest, index }) => [manifest, index]);
  const ofDeltas = [...listing.deltas.values()].flatMap(({ recipe, patchIndex }) => [recipe, patchIndex]);
  return [...listing.products.values(), ...ofReleases, ...ofDeltas];
}

/** All target files that the published metadata lists. */
export function publishedFiles(committed: Committed): PublishedFile[] {
  return (['targets', 'rollouts', 'deltas'] as const).flatMap(role =>
    roleTargets(role, committed[role].signed.targets).listed.map(({ name, sha256, file }) => ({
      name,
      role,
      sha256,
      lengthBytes: file.length,
    })),
  );
}

/** All that the metadata in force refers to. */
export function referencedBy(committed: Committed): Referenced {
  return {
    metadata: ROLES.map(role => ({ role, version: committed[role].signed.version })),
    targets: publishedFiles(committed),
  };
}

/** A file that the top-level targets list. */
export function publishedFileOf(file: ListedFile): PublishedFile {
  return { ...file, role: 'targets' };
}

/** Tells target files apart in a map or set. */
export function targetKey({ name, sha256 }: TargetRef): string {
  return `${sha256} ${name}`;
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

function nameRefused(target: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_TARGET_NAME_REFUSED',
    `${JSON.stringify(cutText(target, 200))} is no name of a release manifest, an index, a product file or a delta`,
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

function deltaIncomplete(delta: DeltaName, missing: (delta: DeltaName) => string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_DELTA_INCOMPLETE',
    `${missing(delta)} isn't listed: a delta's recipe and patch index are both listed, or neither is`,
    { data: { target: missing(delta) } },
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
