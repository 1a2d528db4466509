import type { RolloutSpec } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import { type ListedFile, type ListedRelease, publishedFileOf, readListing } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import { fileLost } from '../repository/target-source.ts';
import { nearestOf } from './match.ts';
import type { RolloutRecord } from './record.ts';

/** A release, by its label or, without one, by its counter. */
export type ReleaseName = Pick<RolloutSpec, 'version' | 'counter'>;

export interface FoundRelease {
  product: ProductFile;
  manifest: ReleaseManifest;
  manifestSha256: string;
}

/**
 * A published release and its product file.
 * @throws SITECAST_NOT_INITIALISED, SITECAST_FILES_LOST (conflict), SITECAST_PRODUCT_UNKNOWN, SITECAST_RELEASE_UNKNOWN (notFound)
 */
export async function findRelease(
  { repository }: { repository: Repository },
  product: string,
  wanted: ReleaseName,
): Promise<FoundRelease> {
  const { committed } = repository;
  const listing = committed && readListing(committed.targets.signed);
  const productFile = listing?.products.get(product);
  if (!listing || !productFile) throw unknownProduct(product, listing);
  const parsed = parseProductFile(await read(repository, productFile));
  const releases = [...(listing.releases.get(product)?.values() ?? [])];
  const { version, counter } = wanted;
  const candidates = version === undefined ? releases.filter(one => one.counter === counter) : releases;
  const { found, lost } = await findManifest(repository, candidates, wanted);
  if (found) return { product: parsed, ...found };
  if (lost) throw fileLost(lost);
  const name = version ?? `with the counter ${counter}`;
  throw new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no published release ${name}`,
    { hint: `\`sitecast release list ${product}\` shows those it has.` },
  );
}

/** @returns `lost`: a manifest that is missing and may be the wanted one. The product's other releases can be rolled out nevertheless. */
async function findManifest(
  repository: Repository,
  releases: readonly ListedRelease[],
  wanted: ReleaseName,
): Promise<{ found?: Omit<FoundRelease, 'product'>; lost?: ListedFile }> {
  let lost: ListedFile | undefined;
  // Newest first: mostly the newest release is rolled out.
  for (const release of [...releases].sort((one, other) => other.counter - one.counter)) {
    const bytes = await repository.content.read(publishedFileOf(release.manifest));
    if (!bytes) lost ??= release.manifest;
    const manifest = bytes && parseReleaseManifest(bytes);
    if (!manifest || (wanted.version !== undefined && manifest.version !== wanted.version)) continue;
    return { found: { manifest, manifestSha256: release.manifest.sha256 } };
  }
  return lost ? { lost } : {};
}

/** The label of a published release; undefined where it isn't listed, or its manifest is lost. */
export async function versionIn(
  { committed, content }: Repository,
  product: string,
  counter: number,
): Promise<string | undefined> {
  const release = committed && readListing(committed.targets.signed).releases.get(product)?.get(counter);
  const bytes = release && (await content.read(publishedFileOf(release.manifest)));
  return bytes && parseReleaseManifest(bytes).version;
}

/** @throws SITECAST_PRODUCT_UNKNOWN (notFound) */
export function demandProduct({ committed }: Pick<Repository, 'committed'>, product: string): void {
  const listing = committed && readListing(committed.targets.signed);
  if (listing?.products.has(product) !== true) throw unknownProduct(product, listing);
}

function unknownProduct(product: string, listing: ReturnType<typeof readListing> | undefined): SitecastError {
  const nearest = nearestOf(product, listing?.products.keys() ?? []);
  const meant = nearest === undefined ? '' : `Is ${nearest} meant? `;
  return new SitecastError('notFound', 'SITECAST_PRODUCT_UNKNOWN', `no product ${product} is published`, {
    hint: `${meant}\`sitecast product list\` shows those that are.`,
    ...(nearest !== undefined && { data: { nearest } }),
  });
}

/** Names of all published products. */
export function publishedProducts({ committed }: Repository): string[] {
  return committed ? [...readListing(committed.targets.signed).products.keys()] : [];
}

async function read(repository: Repository, file: ListedFile): Promise<Buffer> {
  const bytes = await repository.content.read(publishedFileOf(file));
  if (bytes) return bytes;
  throw fileLost(file);
}

export function belowFloor(
  { product, floor }: { product: string; floor: { counter: number } },
  { counter, version }: { counter: number; version: string },
): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_RELEASE_BELOW_FLOOR',
    `${product} ${version} (counter ${counter}) lies below the product's floor, ${floor.counter}: no device would take it`,
    {
      hint: `\`sitecast release list ${product}\` shows its releases: take one with the counter ${floor.counter} or above.`,
      data: { product, counter, floor: floor.counter },
    },
  );
}

/** The release that a rollback leads to. */
export interface ReturnTarget {
  release: { counter: number; version: string };
  /** Hardware that the rollout is for and this release isn't. Such devices keep their release, and report it. */
  unfit: string[];
}

/**
 * Finds a release that devices can go back to: published, older than the rollout's and not below the floor.
 * @throws SITECAST_RELEASE_UNKNOWN (notFound), SITECAST_ROLLBACK_TARGET, SITECAST_HARDWARE_UNFIT (badInput),
 * SITECAST_RELEASE_BELOW_FLOOR (conflict)
 */
export async function findReturnTarget(
  deps: { repository: Repository },
  { product, rollout }: RolloutRecord,
  version: string,
): Promise<ReturnTarget> {
  const { manifest, product: signed } = await findRelease(deps, product, { version });
  const { counter, hardware } = manifest;
  if (counter >= rollout.release.counter) throw notOlder(version, rollout.release.version);
  if (counter < signed.floor.counter) throw belowFloor(signed, manifest);
  const asked = rollout.match.hardware ?? hardware;
  const unfit = asked.filter(name => !hardware.includes(name));
  if (unfit.length === asked.length) {
    throw new SitecastError(
      'badInput',
      'SITECAST_HARDWARE_UNFIT',
      `${product} ${version} isn't for the hardware ${unfit.join(', ')}: no device could go back to it`,
      { data: { unfit, hardware } },
    );
  }
  return { release: { counter, version }, unfit };
}

function notOlder(version: string, from: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_ROLLBACK_TARGET',
    `${version} isn't older than ${from}: going back leads to an older release`,
    { hint: 'To go on to another release, abort this rollout and start one of that release.' },
  );
}
