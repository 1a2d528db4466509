import { SitecastError } from '@sitecast/shared/errors';
import {
  manifestTarget,
  parseProductFile,
  parseReleaseManifest,
  parseTargetName,
  type ProductFile,
  productTarget,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import { cutText } from '@sitecast/shared/text';
import pLimit from 'p-limit';
import { note } from '../output.ts';
import type { RepositoryView } from '../origin/repository-view.ts';

const PARALLEL_FETCHES = 8;

/** The published releases of one product. */
export interface PublishedProduct {
  file: ProductFile;
  /** In the order of their counters. */
  releases: ReleaseManifest[];
  /** Counters of releases whose manifests the origin has lost. */
  lost: number[];
}

function productNames(view: RepositoryView): string[] {
  const names = Object.keys(view.targets.targets).map(parseTargetName);
  return names.flatMap(name => (name?.kind === 'product' ? [name.product] : [])).sort();
}

async function fileOrLost(view: RepositoryView, target: string): Promise<Buffer | 'lost' | undefined> {
  try {
    return await view.file(target);
  } catch (error) {
    if (isMissing(error)) return 'lost';
    throw error;
  }
}

/** Undefined for a product without any publication. */
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
  const found = await Promise.all(
    counters.sort((a, b) => a - b).map(counter => limit(() => readManifest(view, product, counter))),
  );
  const releases = found.filter(manifest => manifest !== undefined);
  const lost = counters.filter((_counter, at) => found[at] === undefined);
  return { file: parseProductFile(bytes), releases, lost };
}

/** All that the origin still has. A product whose file is lost is marked, and the list continues. */
export async function readAllProducts(view: RepositoryView): Promise<PublishedProduct[]> {
  const products = [];
  for (const name of productNames(view)) {
    try {
      products.push(await readKnownProduct(view, name));
    } catch (error) {
      if (!isMissing(error)) throw error;
      note(`warning: ${error.message}; ${error.hint ?? ''}`);
    }
  }
  return products;
}

function isMissing(error: unknown): error is SitecastError {
  return error instanceof SitecastError && error.code === 'SITECAST_TARGET_MISSING';
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

/** @throws SITECAST_RELEASE_UNKNOWN; SITECAST_FILES_LOST if the release may be one whose manifest is lost */
export function findRelease(published: PublishedProduct, version: string): ReleaseManifest {
  const { file, releases } = published;
  const found = releases.find(release => release.version === version);
  if (found) return found;
  demandNoneLost(published);
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

/** @throws SITECAST_FILES_LOST (conflict): the versions of the lost releases are unknown */
export function demandNoneLost({ file: { product }, lost }: PublishedProduct): void {
  const [counter] = lost;
  if (counter === undefined) return;
  const names = lost.map(number => manifestTarget(product, number)).join(', ');
  throw new SitecastError(
    'conflict',
    'SITECAST_FILES_LOST',
    `the origin has lost ${names}: which ${lost.length === 1 ? 'version that is' : 'versions those are'} isn't known`,
    {
      hint: `bring it back from a gateway (stop the origin; sitecast-origin recover --damaged-only --from GATEWAY), or withdraw it: sitecast release withdraw ${product} VERSION --counter ${counter}`,
      data: { product, counters: lost },
    },
  );
}

/** @returns undefined if the origin has lost it */
async function readManifest(
  view: RepositoryView,
  product: string,
  counter: number,
): Promise<ReleaseManifest | undefined> {
  const bytes = await fileOrLost(view, manifestTarget(product, counter));
  if (bytes === 'lost') return undefined;
  // The name came from the same metadata, so it must be listed.
  if (bytes === undefined) throw new Error(`${manifestTarget(product, counter)} has gone`);
  return parseReleaseManifest(bytes);
}

const MAX_GIST_CHARS = 50;

/** The notes of a release, line by line. Each line is marked, so that none looks like the command's own output. */
export function notesLines(notes = ''): string[] {
  if (notes.trim() === '') return [];
  return notes
    .trimEnd()
    .split(/\r?\n/)
    .map(line => `| ${line}`);
}

/** The first line of the notes, cut if it is long. */
export function gistOf(notes = ''): string {
  const [first = '', ...rest] = notes.trim().split(/\r?\n/);
  const gist = cutText(first, MAX_GIST_CHARS);
  return gist.length < first.length || rest.length > 0 ? `${gist} …` : gist;
}
