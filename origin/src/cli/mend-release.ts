import { createHash } from 'node:crypto';
import { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { indexTarget, type ReleaseManifest } from '@sitecast/shared/release';
import { countLost, type ImageOptions, type UploadedImage, uploadImageTo } from './image-upload.ts';
import type { OriginClient } from './origin-client.ts';
import { checkRelease, repair } from './repository-api.ts';
import type { RepositoryView } from './repository-view.ts';

interface MendRequest {
  origin: OriginClient;
  image: ImageOptions;
}

/** What was brought back of a release. */
export interface Mended {
  newChunks: number;
  sentBytes: number;
  /** Names of target files. */
  files: string[];
}

/**
 * Brings back what the origin has lost of a release, or the disk has damaged: chunks, and the index. The origin reads all of the
 * release back first.
 * @returns undefined where nothing is lost
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
  if (damage?.files.includes(indexTarget(product, counter))) return await mendIndex(release, request);
  const bytes = await view.file(indexTarget(product, counter));
  if (!bytes) return undefined;
  const index = ChunkIndex.decode(bytes);
  if ((damage?.chunks ?? 0) === 0 && (await countLost(origin, index)) === 0) return undefined;
  const cut = image.image === undefined ? image : { ...image, chunkSize: index.sizes };
  const sent = await uploadImageTo(origin, cut, `${product} ${version}`);
  return await finish(release, origin, index, sent);
}

/** The index is what says how the image was cut: without it, it must be cut in the same way by luck or by what the caller says. */
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
    `the origin lacks ${lost} chunks of ${product} ${version}, which was cut into chunks in another way`,
    { hint: 'Give what it was published from: the image, or --caibx and --store.' },
  );
}
