import { isDeepStrictEqual } from 'node:util';
import { ChunkIdSet, ChunkIndex, MAX_INDEX_BYTES } from '@sitecast/shared/content';
import type { ErrorCode, SitecastError } from '@sitecast/shared/errors';
import {
  MAX_MANIFEST_BYTES,
  MAX_PRODUCT_BYTES,
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  type ReleaseManifest,
  withdrawnAfter,
} from '@sitecast/shared/release';
import type { ChunkStaging } from '../staging/ports.ts';
import { chunksMissing, findChunks, indexMismatch } from './check-chunks.ts';
import { checkSignedDeltas, type DeltasChange } from './check-deltas.ts';
import type { ListedFile, ListedRelease, Listing } from './listing.ts';
import { refused } from './refusal.ts';
import { isLost, type TargetSource } from './target-source.ts';

/** A release as people know it. */
export interface ReleaseName {
  product: string;
  counter: number;
  version: string;
}

export interface ListingChange {
  added: ReleaseName[];
  removed: { product: string; counter: number }[];
  /** Products whose file is new. */
  products: string[];
  /** Of the deltas that operators have signed. */
  deltas: Pick<DeltasChange, 'added' | 'removed'>;
  /** Files that must get into the repository. */
  newFiles: ListedFile[];
  /** The staged chunks among those of the added releases and deltas. */
  chunks: ChunkIdSet;
}

/** A listed release whose chunks are incomplete. */
export interface LackingRelease {
  product: string;
  counter: number;
  version: string;
  chunks: number;
}

interface ReleaseCheckDeps {
  source: TargetSource;
  chunks: ChunkStaging;
}

/**
 * Checks everything that a new targets.json brings in, and that it takes nothing away but whole releases and deltas.
 * @throws the codes of docs/ERRORS.md under "Publishing"
 */
export async function checkListing(
  before: Listing,
  after: Listing,
  deps: ReleaseCheckDeps,
): Promise<ListingChange> {
  const change: ListingChange = {
    added: [],
    removed: [],
    products: [],
    deltas: { added: [], removed: [] },
    newFiles: [],
    chunks: new ChunkIdSet(),
  };
  for (const [product, releases] of before.releases) {
    for (const counter of releases.keys()) {
      if (!after.releases.get(product)?.has(counter)) change.removed.push({ product, counter });
    }
  }
  for (const product of before.products.keys()) {
    if (!after.products.has(product)) throw productRemoved(product);
  }
  for (const [product, file] of after.products) {
    await checkProduct(product, file, before, after, deps, change);
  }
  const { newFiles, ...deltas } = await checkSignedDeltas(before, after, { ...deps, found: change.chunks });
  change.deltas = deltas;
  change.newFiles.push(...newFiles);
  return change;
}

async function checkProduct(
  product: string,
  file: ListedFile,
  before: Listing,
  after: Listing,
  deps: ReleaseCheckDeps,
  change: ListingChange,
): Promise<void> {
  const { source } = deps;
  const oldFile = before.products.get(product);
  const oldReleases = before.releases.get(product) ?? new Map<number, ListedRelease>();
  const releases = after.releases.get(product) ?? new Map<number, ListedRelease>();
  const added = [...releases.values()].filter(release => !oldReleases.has(release.counter));
  const removed = [...oldReleases.values()].filter(release => !releases.has(release.counter));
  for (const release of releases.values()) refuseChangedRelease(oldReleases.get(release.counter), release);
  const isNewFile = oldFile?.sha256 !== file.sha256;
  if (!isNewFile && added.length === 0 && removed.length === 0) return;

  const next = await readProduct(product, file, source);
  const previous = oldFile && (await readProduct(product, oldFile, source));
  checkProductFile(next, previous, added);
  await checkWithdrawn(next, previous, removed, source);
  if (isNewFile) {
    change.products.push(product);
    change.newFiles.push(file);
  }
  await checkManifests(next, [...releases.values()], source, { mayBeLost: added.length === 0 });
  for (const release of added) await checkAdded(release, deps, change);
}

async function checkManifests(
  next: ProductFile,
  releases: readonly ListedRelease[],
  source: TargetSource,
  mayBe: { mayBeLost: boolean },
): Promise<void> {
  const versions = new Map(next.withdrawn?.map(({ version, counter }) => [version, counter]));
  for (const release of releases) {
    const manifest = await readManifestUnlessLost(release, source, mayBe);
    if (!manifest) continue;
    refuseVersionTwice(versions, manifest);
    refuseUnknownHardware(next, manifest);
  }
}

async function checkAdded(
  release: ListedRelease,
  { source, chunks }: ReleaseCheckDeps,
  change: ListingChange,
): Promise<void> {
  const manifest = await readManifest(release, source);
  const index = await readIndex(release, manifest, source);
  const missing = await findChunks(release, index, chunks, change.chunks);
  const { product, counter } = release;
  const named = { product, counter, version: manifest.version };
  if (missing.size > 0) throw chunksMissing(release, missing);
  change.added.push(named);
  change.newFiles.push(release.manifest, release.index);
}

function refuseChangedRelease(
  before: ListedRelease | undefined,
  { product, counter, ...after }: ListedRelease,
): void {
  if (!before) return;
  if (before.manifest.sha256 === after.manifest.sha256 && before.index.sha256 === after.index.sha256) return;
  throw refused(
    'conflict',
    'SITECAST_RELEASE_CHANGED',
    `release ${counter} of ${product} is published already, with other bytes`,
    { product, counter },
    'A published release never changes: publish a new one.',
  );
}

function checkProductFile(
  next: ProductFile,
  previous: ProductFile | undefined,
  added: readonly ListedRelease[],
): void {
  const { product } = next;
  const lastCounter = previous?.lastCounter ?? 0;
  let highest = lastCounter;
  for (const { counter } of added) {
    if (counter <= lastCounter) {
      throw refused(
        'conflict',
        'SITECAST_COUNTER_NOT_RISING',
        `release ${counter} of ${product} doesn't come after ${lastCounter}, the last counter ever published`,
        { product, counter, lastCounter },
      );
    }
    highest = Math.max(highest, counter);
  }
  if (next.lastCounter !== highest) {
    throw refused(
      'badInput',
      'SITECAST_LAST_COUNTER_WRONG',
      `products/${product}.json must say lastCounter ${highest}, it says ${next.lastCounter}`,
      { product, expected: highest, found: next.lastCounter },
    );
  }
  if (next.floor.counter > next.lastCounter) {
    throw refused(
      'badInput',
      'SITECAST_FLOOR_WRONG',
      `the floor of ${product} is ${next.floor.counter}, above its last release ${next.lastCounter}`,
      { product, floor: next.floor.counter, lastCounter: next.lastCounter },
    );
  }
}

/** Refuses a new product file that forgets a withdrawn release: its version must not be used again. */
async function checkWithdrawn(
  next: ProductFile,
  previous: ProductFile | undefined,
  removed: readonly ListedRelease[],
  source: TargetSource,
): Promise<void> {
  const manifests = await Promise.all(
    removed.map(async release => (await readManifestUnlessLost(release, source)) ?? toldIn(next, release)),
  );
  const expected = withdrawnAfter(previous ?? {}, manifests);
  if (isDeepStrictEqual(next.withdrawn ?? [], expected)) return;
  const { product } = next;
  const named = expected.map(({ version }) => version).join(', ');
  throw refused(
    'badInput',
    'SITECAST_WITHDRAWN_WRONG',
    `products/${product}.json must remember as withdrawn: ${named || 'nothing'}`,
    { product, expected },
    'Make the draft with a `sitecast` of this version.',
  );
}

async function readProduct(product: string, file: ListedFile, source: TargetSource): Promise<ProductFile> {
  refuseTooLong(file, MAX_PRODUCT_BYTES, 'SITECAST_PRODUCT_INVALID');
  const parsed = parseProductFile(await source.read(file));
  if (parsed.product === product) return parsed;
  throw refused(
    'badInput',
    'SITECAST_PRODUCT_INVALID',
    `${file.name} is the file of another product, ${parsed.product}`,
    { target: file.name, product: parsed.product },
  );
}

async function readManifest(release: ListedRelease, source: TargetSource): Promise<ReleaseManifest> {
  refuseTooLong(release.manifest, MAX_MANIFEST_BYTES, 'SITECAST_MANIFEST_INVALID');
  const manifest = parseReleaseManifest(await source.read(release.manifest));
  const { product, counter, index } = release;
  if (manifest.product !== product || manifest.counter !== counter) {
    throw manifestMismatch(release, `is of release ${manifest.counter} of ${manifest.product}`);
  }
  if (manifest.index.sha256 !== index.sha256 || manifest.index.lengthBytes !== index.lengthBytes) {
    throw manifestMismatch(release, 'names another index than targets.json lists');
  }
  if (manifest.minimum !== undefined && manifest.minimum.counter >= counter) {
    throw manifestMismatch(release, 'asks for a minimum release that does not come before it');
  }
  return manifest;
}

/**
 * Lost manifests don't keep releases from being withdrawn. But a new release could have the version of a lost one, so adding a release
 * needs all manifests.
 */
async function readManifestUnlessLost(
  release: ListedRelease,
  source: TargetSource,
  { mayBeLost = true } = {},
): Promise<ReleaseManifest | undefined> {
  try {
    return await readManifest(release, source);
  } catch (error) {
    if (mayBeLost && isLost(error)) return undefined;
    throw error;
  }
}

/** The version of a lost release, as the operators state it: no other source has it. */
function toldIn(
  { withdrawn }: ProductFile,
  { counter }: ListedRelease,
): { counter: number; version: string } {
  return { counter, version: withdrawn?.find(known => known.counter === counter)?.version ?? '' };
}

async function readIndex(
  release: ListedRelease,
  { image }: ReleaseManifest,
  source: TargetSource,
): Promise<ChunkIndex> {
  refuseTooLong(release.index, MAX_INDEX_BYTES, 'SITECAST_INDEX_TOO_LARGE');
  const index = ChunkIndex.decode(await source.read(release.index));
  if (index.lengthBytes !== image.lengthBytes || index.count !== image.chunks) {
    throw indexMismatch(
      release,
      `describes ${index.lengthBytes} bytes in ${index.count} chunks, the manifest ${image.lengthBytes} in ${image.chunks}`,
    );
  }
  return index;
}

function refuseVersionTwice(
  versions: Map<string, number>,
  { product, version, counter }: ReleaseManifest,
): void {
  const other = versions.get(version);
  versions.set(version, counter);
  if (other === undefined) return;
  throw refused(
    'conflict',
    'SITECAST_VERSION_TAKEN',
    `${product} ${version} is the version of release ${other} already`,
    { product, version, counters: [other, counter] },
    'Give the new release another version.',
  );
}

function refuseUnknownHardware(product: ProductFile, { counter, version, hardware }: ReleaseManifest): void {
  const unknown = hardware.filter(name => !product.hardware.includes(name));
  if (unknown.length === 0) return;
  throw refused(
    'badInput',
    'SITECAST_HARDWARE_UNKNOWN',
    `${product.product} ${version} is for hardware that the product file doesn't list: ${unknown.join(', ')}`,
    { product: product.product, counter, hardware: unknown },
  );
}

function refuseTooLong(file: ListedFile, maxBytes: number, code: ErrorCode): void {
  if (file.lengthBytes <= maxBytes) return;
  throw refused('tooLarge', code, `${file.name} has more than ${maxBytes} bytes`, { target: file.name });
}

function productRemoved(product: string): SitecastError {
  return refused(
    'conflict',
    'SITECAST_PRODUCT_REMOVED',
    `products/${product}.json can't be removed: it remembers which counters were ever given`,
    { product },
  );
}

function manifestMismatch({ manifest }: ListedRelease, what: string): SitecastError {
  return refused('badInput', 'SITECAST_MANIFEST_MISMATCH', `${manifest.name} ${what}`, {
    target: manifest.name,
  });
}
