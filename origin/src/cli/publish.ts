import { createHash } from 'node:crypto';
import { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import {
  indexTarget,
  manifestTarget,
  type ProductFile,
  productTarget,
  type ReleaseManifest,
  serializeFile,
} from '@sitecast/shared/release';
import { nextVersion, targetFileOf } from '@sitecast/shared/signing';
import { z } from 'zod';
import { newDraft, requireDraftPlace } from './draft.ts';
import {
  countLost,
  hashImage,
  type ImageOptions,
  type UploadedImage,
  uploadImageTo,
} from './image-upload.ts';
import { KeyRing } from './key-ring.ts';
import type { OriginClient } from './origin-client.ts';
import { note } from './output.ts';
import { findRelease, type PublishedProduct, readProduct } from './releases.ts';
import { openRepository, type RepositoryView } from './repository-view.ts';
import type { TrustOptions } from './settings.ts';
import { type FinishOptions, openReleaseKeys, signAndSubmit } from './sign-and-submit.ts';

/** How often a release is drafted anew because another operator's change got in first. */
const MAX_CONFLICTS = 3;

export interface ReleaseDescription {
  product: string;
  version: string;
  hardware: string[];
  counter?: number | undefined;
  minVersion?: string | undefined;
  notes?: string | undefined;
}

export interface PublishOutcome {
  /**
   * `draft`: written to a file, to be signed by others. `unchanged`: it was there with the same bytes. `mended`: it was, but
   * the origin had lost chunks of it.
   */
  state: 'published' | 'draft' | 'unchanged' | 'mended';
  product: string;
  version: string;
  counter: number;
  sha256: string;
  upload: { lengthBytes: number; chunks: number; newChunks: number; sentBytes: number };
}

interface PublishRequest {
  origin: OriginClient;
  description: ReleaseDescription;
  image: ImageOptions;
  options: TrustOptions & FinishOptions;
}

/** The whole of `release publish` and `release draft`: upload what the origin lacks, then describe, sign and submit it. */
export async function publishRelease(request: PublishRequest): Promise<PublishOutcome> {
  const { origin, description, options } = request;
  const { product, version } = description;
  if (options.draft !== undefined) await requireDraftPlace(options.draft);
  const view = await openRepository(options, origin);
  const published = await readProduct(view, product);
  const existing = published?.releases.find(release => release.version === version);
  if (existing) return unchangedOrRefused(existing, request, view);
  placeRelease(published, description);
  const keys = new KeyRing(options);
  await openReleaseKeys(keys, view.root, options);
  const image = await uploadImageTo(origin, request.image, `${product} ${version}`);
  return submitRelease(request, image, view, keys);
}

async function submitRelease(
  request: PublishRequest,
  image: UploadedImage,
  firstView: RepositoryView,
  keys: KeyRing,
): Promise<PublishOutcome> {
  const { origin, description, options } = request;
  let view = firstView;
  for (let conflicts = 0; ; conflicts += 1) {
    const published = await readProduct(view, description.product);
    const manifest = describeRelease(description, placeRelease(published, description), image);
    const files: [string, Buffer][] = [
      [manifestTarget(manifest.product, manifest.counter), serializeFile(manifest)],
      [indexTarget(manifest.product, manifest.counter), image.index],
      [productTarget(manifest.product), serializeFile(describeProduct(published?.file, manifest))],
    ];
    const targets = nextVersion(view.targets, Date.now());
    for (const [name, bytes] of files) targets.targets[name] = targetFileOf(bytes);
    const draft = newDraft(`release ${description.product} ${description.version}`, { targets }, files);
    try {
      const result = await signAndSubmit(draft, view.root, origin, { ...options, json: false }, keys);
      return outcome(result ? 'published' : 'draft', manifest, image);
    } catch (error) {
      const isOvertaken = error instanceof SitecastError && error.code === 'SITECAST_VERSION_CONFLICT';
      if (!isOvertaken || conflicts >= MAX_CONFLICTS) throw error;
      note('another change was published meanwhile: describing the release anew');
      view = await openRepository(options, origin);
    }
  }
}

/** What the repository's present state makes of a description. */
interface Placement {
  counter: number;
  minimum: { counter: number; version: string } | undefined;
}

/** @throws what makes the release impossible: before hundreds of megabytes are sent, and again at the end */
function placeRelease(published: PublishedProduct | undefined, description: ReleaseDescription): Placement {
  const { product, version, minVersion } = description;
  if (published?.releases.some(release => release.version === version)) throw versionExists(description);
  if (published?.file.withdrawn?.some(release => release.version === version))
    throw versionWithdrawn(description);
  const lastCounter = published?.file.lastCounter ?? 0;
  const counter = description.counter ?? lastCounter + 1;
  if (counter <= lastCounter) {
    throw new SitecastError(
      'conflict',
      'SITECAST_COUNTER_NOT_RISING',
      `counter ${counter} isn't above ${product}'s last, ${lastCounter}`,
      { hint: `leave --counter away, or give ${lastCounter + 1} or more` },
    );
  }
  return {
    counter,
    minimum: minVersion === undefined ? undefined : minimumOf(published, product, minVersion),
  };
}

function minimumOf(
  published: PublishedProduct | undefined,
  product: string,
  version: string,
): Placement['minimum'] {
  if (published) return { counter: findRelease(published, version).counter, version };
  throw new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no release ${version} to start from: this is its first`,
  );
}

function describeRelease(
  description: ReleaseDescription,
  { counter, minimum }: Placement,
  image: UploadedImage,
): ReleaseManifest {
  const { product, version, hardware, notes } = description;
  const { lengthBytes, sha256, chunks, index } = image;
  return {
    format: 'sitecast-release-1',
    product,
    counter,
    version,
    hardware,
    image: { lengthBytes, sha256, chunks },
    index: { sha256: createHash('sha256').update(index).digest('hex'), lengthBytes: index.length },
    ...(minimum && { minimum }),
    ...(notes !== undefined && { notes }),
    createdAt: new Date().toISOString(),
  };
}

function describeProduct(
  before: ProductFile | undefined,
  { product, hardware, counter }: ReleaseManifest,
): ProductFile {
  const base = before ?? {
    format: 'sitecast-product-1',
    product,
    hardware: [],
    floor: { counter: 0 },
    lastCounter: 0,
  };
  return { ...base, hardware: [...new Set([...base.hardware, ...hardware])], lastCounter: counter };
}

async function unchangedOrRefused(
  existing: ReleaseManifest,
  request: PublishRequest,
  view: RepositoryView,
): Promise<PublishOutcome> {
  const { description, image } = request;
  const { lengthBytes, sha256 } = await hashImage(image);
  const differs = differenceOf(existing, description, sha256);
  if (differs !== undefined) throw versionExists(description, differs);
  const { product, version, counter } = existing;
  const sent = await mend(existing, request, view);
  const upload = { lengthBytes, chunks: existing.image.chunks, newChunks: 0, sentBytes: 0, ...sent };
  return { state: sent ? 'mended' : 'unchanged', product, version, counter, sha256, upload };
}

/**
 * Brings chunks back that the origin has lost of a release: it was restored from a backup, say.
 * @returns undefined where none is lost
 */
async function mend(
  { product, version, counter }: ReleaseManifest,
  { origin, image }: PublishRequest,
  view: RepositoryView,
): Promise<{ newChunks: number; sentBytes: number } | undefined> {
  const bytes = await view.file(indexTarget(product, counter));
  if (!bytes) return undefined;
  const index = ChunkIndex.decode(bytes);
  if ((await countLost(origin, index)) === 0) return undefined;
  const cut = image.image === undefined ? image : { ...image, chunkSize: index.sizes };
  const { newChunks, sentBytes } = await uploadImageTo(origin, cut, `${product} ${version}`);
  await origin.json('/api/v1/repairs', z.object({ chunks: z.number() }), { method: 'POST' });
  const lost = await countLost(origin, index);
  if (lost === 0) return { newChunks, sentBytes };
  throw new SitecastError(
    'conflict',
    'SITECAST_CHUNKS_MISSING',
    `the origin lacks ${lost} chunks of ${product} ${version}, which was cut into chunks in another way`,
    { hint: 'Give what it was published from: the image, or --caibx and --store.' },
  );
}

/** What is asked for and isn't what was published: "unchanged" would be said of something else. */
function differenceOf(
  { image, hardware, counter, minimum, notes }: ReleaseManifest,
  wanted: ReleaseDescription,
  sha256: string,
): string | undefined {
  if (sha256 !== image.sha256) return 'with other bytes';
  if ([...hardware].sort().join() !== [...wanted.hardware].sort().join()) return 'for other hardware';
  if (wanted.counter !== undefined && wanted.counter !== counter) return `with the counter ${counter}`;
  if (wanted.minVersion !== undefined && wanted.minVersion !== minimum?.version)
    return minimum ? `from ${minimum.version} on` : 'without a release to start from';
  if (wanted.notes !== undefined && wanted.notes !== (notes ?? '')) return 'with other notes';
  return undefined;
}

function versionExists({ product, version }: ReleaseDescription, what = 'with other bytes'): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_VERSION_EXISTS',
    `${product} ${version} is published already, ${what}`,
    {
      hint: 'a release never changes: publish under another version',
    },
  );
}

function versionWithdrawn({ product, version }: ReleaseDescription): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_VERSION_EXISTS',
    `${product} ${version} was published before, and withdrawn`,
    { hint: 'a version is given once: publish under another one' },
  );
}

function outcome(
  state: 'published' | 'draft',
  { product, version, counter, image }: ReleaseManifest,
  { lengthBytes, chunks, newChunks, sentBytes }: UploadedImage,
): PublishOutcome {
  return {
    state,
    product,
    version,
    counter,
    sha256: image.sha256,
    upload: { lengthBytes, chunks, newChunks, sentBytes },
  };
}
