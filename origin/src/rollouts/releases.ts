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
import { nearestOf } from './nearest.ts';

/** A release, by its label or its counter. */
export type ReleaseName = { version: string } | { counter: number };

export interface FoundRelease {
  product: ProductFile;
  manifest: ReleaseManifest;
  manifestSha256: string;
}

/**
 * A published release and what is signed of its product.
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
  const candidates = 'counter' in wanted ? releases.filter(one => one.counter === wanted.counter) : releases;
  const { found, lost } = await findManifest(repository, candidates, wanted);
  if (found) return { product: parsed, ...found };
  if (lost) throw fileLost(lost);
  const name = 'version' in wanted ? wanted.version : `with the counter ${wanted.counter}`;
  throw new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no published release ${name}`,
    { hint: `\`sitecast release list ${product}\` shows those it has.` },
  );
}

/** @returns also a manifest that is lost, and may be the one: others of the product can be rolled out nevertheless */
async function findManifest(
  repository: Repository,
  releases: readonly ListedRelease[],
  wanted: ReleaseName,
): Promise<{ found?: Omit<FoundRelease, 'product'>; lost?: ListedFile }> {
  let lost: ListedFile | undefined;
  // Newest first: what is rolled out is mostly the newest.
  for (const release of [...releases].sort((one, other) => other.counter - one.counter)) {
    const bytes = await repository.content.read(publishedFileOf(release.manifest));
    if (!bytes) lost ??= release.manifest;
    const manifest = bytes && parseReleaseManifest(bytes);
    if (!manifest || ('version' in wanted && manifest.version !== wanted.version)) continue;
    return { found: { manifest, manifestSha256: release.manifest.sha256 } };
  }
  return lost ? { lost } : {};
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
