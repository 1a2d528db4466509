import { createHash } from 'node:crypto';
import { MAX_DELTA_BASES } from '@sitecast/shared/api';
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
import { newDraft, requireDraftPlace } from '../draft/draft.ts';
import { hashImage, type ImageOptions, type UploadedImage, uploadImageTo } from './image-upload.ts';
import { KeyRing } from '../keys/key-ring.ts';
import { fetchDeltas, makesNoDeltas } from './deltas-api.ts';
import { mendRelease } from './repair.ts';
import { type DraftedDelta, draftDelta, type MadeWindows, withWindows } from './signed-deltas.ts';
import { removeUseless } from './signed-list.ts';
import { repair } from '../origin/repository-api.ts';
import type { OriginClient } from '../origin/client.ts';
import { note } from '../output.ts';
import { demandNoneLost, findRelease, type PublishedProduct, readProduct } from './releases.ts';
import { openRepository, type RepositoryView } from '../origin/repository-view.ts';
import type { TrustOptions } from '../settings.ts';
import { type FinishOptions, openReleaseKeys, signAndSubmit } from '../draft/sign-and-submit.ts';

/** How often a release is drafted again because another operator's change was published first. */
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
   * `draft`: written to a file, for others to sign. `deltas`: published before, and a draft adds deltas to it. `unchanged`: published before with the same bytes. `mended`: the same, but the origin
   * had lost some of it.
   */
  state: 'published' | 'draft' | 'deltas' | 'unchanged' | 'mended';
  product: string;
  version: string;
  counter: number;
  sha256: string;
  upload: { lengthBytes: number; chunks: number; newChunks: number; sentBytes: number };
  /** Those that a draft was asked to carry. */
  deltas?: Omit<DraftedDelta, 'files'>[];
  /** Target files that were restored. */
  files?: string[];
}

interface PublishRequest {
  origin: OriginClient;
  description: ReleaseDescription;
  image: ImageOptions;
  /** Versions from which deltas lead to the release: a draft carries them, for operators to sign; else the origin is asked for them afterwards. */
  deltaFrom?: readonly string[];
  options: TrustOptions & FinishOptions;
}

/**
 * `release publish` and `release draft`: uploads what the origin lacks, then describes, signs and submits the release. What keeps it from
 * that and can be known beforehand is refused before anything is sent.
 */
export async function publishRelease(request: PublishRequest): Promise<PublishOutcome> {
  const { origin, description, options } = request;
  const { product, version } = description;
  if (options.draft !== undefined) await requireDraftPlace(options.draft);
  const view = await openRepository(options, origin);
  const published = await readProduct(view, product);
  const named = basesOf(published, description, request.deltaFrom);
  if (named.length > 0 && !(await fetchDeltas(origin, product))) throw makesNoDeltas();
  const bases = options.draft === undefined ? [] : named;
  const existing = published?.releases.find(release => release.version === version);
  if (existing) return unchangedOrRefused(existing, request, view, bases);
  if (published) demandNoneLost(published);
  placeRelease(published, description);
  const keys = new KeyRing(options);
  await openReleaseKeys(keys, view.root, options);
  const image = await uploadImageTo(origin, request.image, `${product} ${version}`);
  const { index } = image;
  return withWindows(
    { origin, view, image: request.image, index, bases, directory: options.state },
    async made => {
      // Making deltas takes minutes, in which others may publish.
      const newest = made.length > 0 ? await openRepository(options, origin) : view;
      return await submitRelease(request, { image, made }, newest, keys);
    },
  );
}

/** @throws SITECAST_RELEASE_UNKNOWN (notFound), SITECAST_DELTA_MISMATCH, SITECAST_TOO_MANY_DELTAS (badInput) */
function basesOf(
  published: PublishedProduct | undefined,
  { product, version }: ReleaseDescription,
  versions: readonly string[] = [],
): ReleaseManifest[] {
  const distinct = [...new Set(versions)];
  if (distinct.length > MAX_DELTA_BASES)
    throw new SitecastError(
      'badInput',
      'SITECAST_TOO_MANY_DELTAS',
      `at most ${MAX_DELTA_BASES} deltas lead to a release at once`,
    );
  return distinct.map(from => {
    if (from === version)
      throw new SitecastError(
        'badInput',
        'SITECAST_DELTA_MISMATCH',
        'a delta leads from one release to another',
      );
    if (published) return findRelease(published, from);
    throw new SitecastError(
      'notFound',
      'SITECAST_RELEASE_UNKNOWN',
      `${product} has no release ${from} that a delta could lead from: this is its first`,
    );
  });
}

async function submitRelease(
  request: PublishRequest,
  { image, made }: { image: UploadedImage; made: readonly MadeWindows[] },
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
    const deltas = await draftDeltas(origin, made, manifest);
    files.push(...deltas.flatMap(delta => delta.files));
    const targets = nextVersion(view.targets, Date.now());
    await removeUseless(origin, targets, description.product);
    for (const [name, bytes] of files) targets.targets[name] = targetFileOf(bytes);
    const draft = newDraft(`release ${description.product} ${description.version}`, { targets }, files);
    try {
      const result = await signAndSubmit(draft, view.root, origin, { ...options, json: false }, keys);
      return { ...outcome(result ? 'published' : 'draft', manifest, image), ...told(deltas) };
    } catch (error) {
      const isOvertaken = error instanceof SitecastError && error.code === 'SITECAST_VERSION_CONFLICT';
      if (!isOvertaken || conflicts >= MAX_CONFLICTS) throw error;
      note('another change was published meanwhile: describing the release anew');
      view = await openRepository(options, origin);
    }
  }
}

async function draftDeltas(
  origin: OriginClient,
  made: readonly MadeWindows[],
  to: ReleaseManifest,
): Promise<DraftedDelta[]> {
  const deltas: DraftedDelta[] = [];
  for (const windows of made) deltas.push(await draftDelta(origin, windows, to));
  return deltas;
}

const told = (deltas: readonly DraftedDelta[]): Pick<PublishOutcome, 'deltas'> =>
  deltas.length === 0 ? {} : { deltas: deltas.map(({ files: _files, ...delta }) => delta) };

/** A described release, numbered by the repository's present state. */
interface Placement {
  counter: number;
  minimum: { counter: number; version: string } | undefined;
}

/** Checks the release before hundreds of megabytes are sent, and again at the end. @throws an error that says what makes it impossible */
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
  bases: readonly ReleaseManifest[],
): Promise<PublishOutcome> {
  const { description, image } = request;
  const { lengthBytes, sha256 } = await hashImage(image);
  const differs = differenceOf(existing, description, sha256);
  if (differs !== undefined) throw versionExists(description, differs);
  const { product, version, counter } = existing;
  const { newChunks = 0, sentBytes = 0, files = [] } = (await mendRelease(existing, request, view)) ?? {};
  const isMended = newChunks > 0 || files.length > 0;
  const upload = { lengthBytes, chunks: existing.image.chunks, newChunks, sentBytes };
  const outcome = { product, version, counter, sha256, upload };
  if (bases.length > 0) {
    const { deltas, isDrafted } = await addDeltas(existing, request, view, bases);
    if (isDrafted) return { state: 'deltas', ...outcome, ...told(deltas) };
  }
  return isMended ? { state: 'mended', ...outcome, files } : { state: 'unchanged', ...outcome };
}

/**
 * Drafts deltas to a release that is published already. Where they are published, too, with the same bytes, that puts back what the origin
 * has lost of their patches.
 */
async function addDeltas(
  release: ReleaseManifest,
  { origin, image, options }: PublishRequest,
  view: RepositoryView,
  bases: readonly ReleaseManifest[],
): Promise<{ deltas: DraftedDelta[]; isDrafted: boolean }> {
  const { product, version, counter } = release;
  const index = await view.file(indexTarget(product, counter));
  // It is listed with the manifest, which was read from the same metadata.
  if (!index) throw new Error(`${indexTarget(product, counter)} has gone`);
  const keys = new KeyRing(options);
  await openReleaseKeys(keys, view.root, options);
  return withWindows({ origin, view, image, index, bases, directory: options.state }, async made => {
    const newest = await openRepository(options, origin);
    const deltas = await draftDeltas(origin, made, release);
    const targets = nextVersion(newest.targets, Date.now());
    const files = deltas.flatMap(delta => delta.files);
    const fresh = files.filter(
      ([name, bytes]) => targets.targets[name]?.hashes.sha256 !== targetFileOf(bytes).hashes.sha256,
    );
    if (fresh.length === 0) {
      await repair(origin);
      return { deltas, isDrafted: false };
    }
    await removeUseless(origin, targets, product);
    for (const [name, bytes] of files) targets.targets[name] = targetFileOf(bytes);
    const draft = newDraft(`deltas to ${product} ${version}`, { targets }, files);
    await signAndSubmit(draft, newest.root, origin, { ...options, json: false }, keys);
    return { deltas, isDrafted: true };
  });
}

/** The settings that differ from the published release. It would be wrong to call such a release unchanged. */
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
