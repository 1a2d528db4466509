import { SitecastError } from '@sitecast/shared/errors';
import {
  MAX_MANIFEST_BYTES,
  MAX_PRODUCT_BYTES,
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import { type ListedFile, readListing, targetFilePath } from '../repository/check-targets.ts';
import { damaged, sha256Hex, TARGETS } from '../repository/committed.ts';
import type { Repository } from '../repository/repository.ts';
import type { Files } from '../storage/files.ts';
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
 * @throws SITECAST_NOT_INITIALISED (conflict), SITECAST_PRODUCT_UNKNOWN, SITECAST_RELEASE_UNKNOWN (notFound)
 */
export async function findRelease(
  { repository, files }: { repository: Repository; files: Files },
  product: string,
  wanted: ReleaseName,
): Promise<FoundRelease> {
  const { committed } = repository;
  const listing = committed && readListing(committed.targets.signed);
  const productFile = listing?.products.get(product);
  if (!listing || !productFile) throw unknownProduct(product, listing);
  const parsed = parseProductFile(await read(files, productFile, MAX_PRODUCT_BYTES));
  // Newest first: what is rolled out is mostly the newest.
  const releases = [...(listing.releases.get(product)?.values() ?? [])].sort(
    (one, other) => other.counter - one.counter,
  );
  for (const release of releases) {
    if ('counter' in wanted && release.counter !== wanted.counter) continue;
    const manifest = parseReleaseManifest(await read(files, release.manifest, MAX_MANIFEST_BYTES));
    if ('version' in wanted && manifest.version !== wanted.version) continue;
    return { product: parsed, manifest, manifestSha256: release.manifest.sha256 };
  }
  const name = 'version' in wanted ? wanted.version : `with the counter ${wanted.counter}`;
  throw new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no published release ${name}`,
    { hint: `\`sitecast release list ${product}\` shows those it has.` },
  );
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

async function read(files: Files, file: ListedFile, maxBytes: number): Promise<Buffer> {
  const path = targetFilePath(file);
  const bytes = await files.read(`${TARGETS}/${path}`, maxBytes);
  if (bytes === undefined || sha256Hex(bytes) !== file.sha256)
    throw damaged(`${path} is missing or was altered`);
  return bytes;
}
