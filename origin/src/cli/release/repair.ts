import { plural } from '@sitecast/shared/text';
import { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { indexTarget, manifestTarget, type ReleaseManifest } from '@sitecast/shared/release';
import type { SignedTargets } from '@sitecast/shared/trust';
import { createHash } from 'node:crypto';
import type { Draft } from '../draft/draft.ts';
import { countLost, type ImageOptions, type UploadedImage, uploadImageTo } from './image-upload.ts';
import type { OriginClient } from '../origin/client.ts';
import { checkRelease, repair, repositoryStatus } from '../origin/repository-api.ts';
import type { RepositoryView } from '../origin/repository-view.ts';

interface MendRequest {
  origin: OriginClient;
  image: ImageOptions;
}

/** What was restored of a release. */
export interface Mended {
  newChunks: number;
  sentBytes: number;
  /** Names of target files. */
  files: string[];
}

/**
 * Restores the parts of a release that the origin has lost or its disk has damaged: chunks, the index, the manifest. First the origin reads
 * back the whole release.
 * @returns undefined if nothing is lost
 * @throws SITECAST_CHUNKS_MISSING, SITECAST_FILES_LOST where the image was cut into chunks in another way
 */
export async function mendRelease(
  release: ReleaseManifest,
  request: MendRequest,
  view: RepositoryView,
): Promise<Mended | undefined> {
  const { origin, image } = request;
  const { product, version, counter } = release;
  const damage = await checkRelease(origin, product, counter);
  const files = await giveBack(
    origin,
    view,
    (damage?.files ?? []).filter(name => name === manifestTarget(product, counter)),
  );
  if (damage?.files.includes(indexTarget(product, counter)))
    return withFiles(files, await mendIndex(release, request));
  const bytes = await view.file(indexTarget(product, counter));
  const index = bytes && ChunkIndex.decode(bytes);
  if (!index || ((damage?.chunks ?? 0) === 0 && (await countLost(origin, index)) === 0))
    return files.length > 0 ? { newChunks: 0, sentBytes: 0, files } : undefined;
  const cut = image.image === undefined ? image : { ...image, chunkSize: index.sizes };
  const sent = await uploadImageTo(origin, cut, `${product} ${version}`);
  return withFiles(files, await finish(release, origin, index, sent));
}

/**
 * Sends files back to the origin that its disk has lost, but that it still serves from open files.
 * @returns names of the restored files
 * @throws SITECAST_TARGET_MISSING if the origin no longer serves a file
 * @throws SITECAST_FILES_LOST if a file is lost nevertheless
 */
async function giveBack(
  origin: OriginClient,
  view: RepositoryView,
  names: readonly string[],
): Promise<string[]> {
  if (names.length === 0) return [];
  for (const name of names) {
    const bytes = await view.file(name);
    if (!bytes) continue;
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    await origin.bytes(`/api/v1/files/${sha256}`, { method: 'PUT', bytes });
  }
  const { files } = await repair(origin);
  const lost = names.filter(name => !files.includes(name));
  if (lost.length === 0) return files;
  throw new SitecastError('conflict', 'SITECAST_FILES_LOST', `the origin has lost ${lost.join(', ')}`, {
    hint: 'Stop the origin and run sitecast-origin recover --damaged-only --from GATEWAY.',
    data: { files: lost },
  });
}

const withFiles = (files: readonly string[], mended: Mended): Mended => ({
  ...mended,
  files: [...new Set([...files, ...mended.files])],
});

/** Only the index records how the image was cut into chunks. Without it the caller's settings must happen to be the same. */
async function mendIndex(release: ReleaseManifest, { origin, image }: MendRequest): Promise<Mended> {
  const { product, version } = release;
  const sent = await uploadImageTo(origin, image, `${product} ${version}`);
  const sha256 = createHash('sha256').update(sent.index).digest('hex');
  if (sha256 !== release.index.sha256)
    throw new SitecastError(
      'conflict',
      'SITECAST_FILES_LOST',
      `the origin has lost the index of ${product} ${version}, and it was cut into chunks in another way than now`,
      {
        hint: 'Give what it was published with: --chunk-size, or --caibx and --store; or bring the file back with sitecast-origin recover --damaged-only.',
      },
    );
  await origin.bytes(`/api/v1/files/${sha256}`, { method: 'PUT', bytes: sent.index });
  return await finish(release, origin, ChunkIndex.decode(sent.index), sent);
}

async function finish(
  { product, version }: ReleaseManifest,
  origin: OriginClient,
  index: ChunkIndex,
  { newChunks, sentBytes }: UploadedImage,
): Promise<Mended> {
  const { files } = await repair(origin);
  const lost = await countLost(origin, index);
  if (lost === 0) return { newChunks, sentBytes, files };
  throw new SitecastError(
    'conflict',
    'SITECAST_CHUNKS_MISSING',
    `the origin lacks ${plural(lost, 'chunk')} of ${product} ${version}, which was cut into chunks in another way`,
    { hint: 'Give what it was published from: the image, or --caibx and --store.' },
  );
}

/**
 * Uploads the draft's files that the origin lists but has lost, however long ago the draft was published.
 * @returns their names
 */
export async function bringBack(
  origin: OriginClient,
  { files }: Draft,
  { targets }: SignedTargets,
): Promise<string[]> {
  const { damage } = await repositoryStatus(origin);
  const lost = (damage?.files ?? []).filter(name => {
    const bytes = files.get(name);
    return (
      bytes !== undefined && Object.hasOwn(targets, name) && targets[name]?.hashes.sha256 === hashOf(bytes)
    );
  });
  for (const name of lost) {
    const bytes = files.get(name);
    if (bytes) await origin.bytes(`/api/v1/files/${hashOf(bytes)}`, { method: 'PUT', bytes });
  }
  return lost.length > 0 ? (await repair(origin)).files : [];
}

function hashOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
