import { SitecastError } from '@sitecast/shared/errors';
import {
  manifestTarget,
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  parseTargetName,
  productTarget,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import pLimit from 'p-limit';
import type { RepositoryView } from './repository-view.ts';

const PARALLEL_FETCHES = 8;

/** What is published of one product. */
export interface PublishedProduct {
  file: ProductFile;
  /** In the order of their counters. */
  releases: ReleaseManifest[];
}

export function productNames(view: RepositoryView): string[] {
  const names = Object.keys(view.targets.targets).map(parseTargetName);
  return names.flatMap(name => (name?.kind === 'product' ? [name.product] : [])).sort();
}

/** Undefined for a product that nothing was ever published for. */
export async function readProduct(
  view: RepositoryView,
  product: string,
): Promise<PublishedProduct | undefined> {
  const bytes = await view.file(productTarget(product));
  if (bytes === undefined) return undefined;
  const counters = Object.keys(view.targets.targets).flatMap(target => {
    const name = parseTargetName(target);
    return name?.kind === 'manifest' && name.product === product ? [name.counter] : [];
  });
  const limit = pLimit(PARALLEL_FETCHES);
  const releases = await Promise.all(
    counters.sort((a, b) => a - b).map(counter => limit(() => readManifest(view, product, counter))),
  );
  return { file: parseProductFile(bytes), releases };
}

/** @throws SITECAST_PRODUCT_UNKNOWN */
export async function readKnownProduct(view: RepositoryView, product: string): Promise<PublishedProduct> {
  const found = await readProduct(view, product);
  if (found) return found;
  const names = productNames(view);
  throw new SitecastError('notFound', 'SITECAST_PRODUCT_UNKNOWN', `there's no product called ${product}`, {
    hint: names.length === 0 ? 'nothing was published yet' : `there is ${names.slice(0, 10).join(', ')}`,
  });
}

/** @throws SITECAST_RELEASE_UNKNOWN */
export function findRelease({ file, releases }: PublishedProduct, version: string): ReleaseManifest {
  const found = releases.find(release => release.version === version);
  if (found) return found;
  const listed = releases.map(release => release.version).slice(-10);
  throw new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${file.product} has no release ${version}`,
    {
      hint: listed.length === 0 ? 'none is listed' : `the newest are ${listed.join(', ')}`,
    },
  );
}

async function readManifest(
  view: RepositoryView,
  product: string,
  counter: number,
): Promise<ReleaseManifest> {
  const bytes = await view.file(manifestTarget(product, counter));
  // The name came out of the very metadata that is asked.
  if (bytes === undefined) throw new Error(`${manifestTarget(product, counter)} has gone`);
  return parseReleaseManifest(bytes);
}
