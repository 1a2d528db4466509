import { batchesOf, ChunkIndex, MAX_BATCH_BYTES } from '@sitecast/shared/content';
import {
  type DeltaName,
  indexTarget,
  patchIndexTarget,
  recipeTarget,
  type ReleaseManifest,
} from '@sitecast/shared/release';
import { plural } from '@sitecast/shared/text';
import {
  composeDelta,
  type ComposedWindow,
  composedWindow,
  deltaCosts,
  makeDelta,
  MAX_DELTA_PATCH_BYTES,
  patchFrames,
} from '../../deltas/maker/index.ts';
import type { OriginClient } from '../origin/client.ts';
import type { RepositoryView } from '../origin/repository-view.ts';
import { formatBytes, note } from '../output.ts';
import { byteProgress } from '../terminal.ts';
import { copyPublished } from './base-copy.ts';
import type { ImageOptions } from './image-upload.ts';
import { type LocalImage, openLocalImage } from './local-image.ts';

/** Bytes of one upload of patches. */
const BATCH_BYTES = MAX_BATCH_BYTES / 2;

interface MakeRequest {
  origin: OriginClient;
  view: RepositoryView;
  image: ImageOptions;
  /** The bytes of the index of the image. */
  index: Buffer;
  /** The releases that deltas lead from. */
  bases: readonly ReleaseManifest[];
  /** Where a copy of each base lies while it is needed. */
  directory: string;
}

/** The windows from one base: they don't depend on the new release's counter. */
export interface MadeWindows {
  base: ReleaseManifest;
  baseIndex: ChunkIndex;
  target: LocalImage;
  windows: readonly ComposedWindow[];
}

/** A delta for operators to sign. Its patches are staged at the origin. */
export interface DraftedDelta {
  /** `notWorth`: a device would fetch no less by it than by chunks, so it is left out. */
  state: 'drafted' | 'notWorth';
  from: { counter: number; version: string };
  to: { counter: number; version: string };
  /** Windows that have a patch. */
  patches: number;
  /** Of recipe, patch index and patches. */
  bytes: number;
  /** Its target files. */
  files: [string, Buffer][];
}

/**
 * Makes the windows of deltas on this machine, from the image at hand and the published images of `bases`. So what is signed comes from
 * here, and not from an origin whose keys are online.
 * @param use called once, while the image is open
 * @throws SITECAST_TARGET_MISSING where the origin has lost the index of a base, SITECAST_WORKER_FAILED, and as `copyPublished`
 */
export async function withWindows<T>(
  request: MakeRequest,
  use: (made: readonly MadeWindows[]) => Promise<T>,
): Promise<T> {
  if (request.bases.length === 0) return await use([]);
  const target = await openLocalImage(request.image, ChunkIndex.decode(request.index));
  try {
    const made: MadeWindows[] = [];
    for (const base of request.bases) made.push(await makeFrom(request, base, target));
    return await use(made);
  } finally {
    await target.close();
  }
}

async function makeFrom(
  { origin, view, image: { quiet }, directory }: MakeRequest,
  base: ReleaseManifest,
  target: LocalImage,
): Promise<MadeWindows> {
  const bytes = await view.file(indexTarget(base.product, base.counter));
  // It is listed with the manifest, which was read from the same metadata.
  if (!bytes) throw new Error(`${indexTarget(base.product, base.counter)} has gone`);
  const baseIndex = ChunkIndex.decode(bytes);
  const title = `${base.product} ${base.version}`;
  const copy = await copyPublished({ index: baseIndex, local: target, origin, directory, title, quiet });
  const progress = byteProgress(`delta from ${base.version}`, quiet, 'of patches');
  const windows: ComposedWindow[] = [];
  let patchBytes = 0;
  try {
    const frameBytes = (chunk: number) => target.frameBytes(chunk);
    // Somebody waits for it, unlike for those that an origin makes.
    const delta = { base: copy.source, target, frameBytes, niceness: 0 };
    for await (const { patch, ...place } of makeDelta(delta)) {
      if (patch) windows.push(composedWindow({ ...place, patch }));
      patchBytes += patch?.length ?? 0;
      const readBytes = place.targetOffset + place.targetLength;
      progress.update({ readBytes, totalBytes: target.index.lengthBytes, sentBytes: patchBytes });
      // The rest is sent as chunks.
      if (patchBytes > MAX_DELTA_PATCH_BYTES) break;
    }
  } finally {
    progress.stop();
    await copy.close();
  }
  return { base, baseIndex, target, windows };
}

/** Puts a delta together, and stages its patches. */
export async function draftDelta(
  origin: OriginClient,
  { base, baseIndex, target, windows }: MadeWindows,
  to: ReleaseManifest,
): Promise<DraftedDelta> {
  const about = {
    from: { counter: base.counter, version: base.version },
    to: { counter: to.counter, version: to.version },
  };
  const head = {
    product: to.product,
    from: { counter: base.counter, indexSha256: base.index.sha256 },
    to: { counter: to.counter, indexSha256: to.index.sha256 },
  };
  const indexes = { base: baseIndex, target: target.index };
  const composed = await composeDelta(head, indexes, windows, at => target.frameBytes(at));
  const costs = deltaCosts(composed, windows, to.index.lengthBytes);
  const costBytes = costs.headBytes + costs.patchBytes + costs.restBytes;
  if (!costs.pays) {
    note(
      `leaves out the delta from ${base.version}: a device would fetch ${formatBytes(costBytes)} by it, and ${formatBytes(costs.chunkBytes)} by chunks`,
    );
    return { state: 'notWorth', ...about, patches: 0, bytes: 0, files: [] };
  }
  const { recipe, patchIndex, chunks } = composed;
  const index = Buffer.from(patchIndex.encode());
  const bytes = (await stage(origin, chunks())) + recipe.length + index.length;
  note(
    `adds a delta from ${base.version}: ${plural(windows.length, 'patched window')}, ${formatBytes(bytes)} with its recipe; a device fetches ${formatBytes(costBytes)} by it, and ${formatBytes(costs.chunkBytes)} by chunks`,
  );
  const name: DeltaName = { product: to.product, from: base.counter, to: to.counter };
  const files: [string, Buffer][] = [
    [recipeTarget(name), recipe],
    [patchIndexTarget(name), index],
  ];
  return { state: 'drafted', ...about, patches: windows.length, bytes, files };
}

/** @returns bytes that were sent */
async function stage(origin: OriginClient, chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let sentBytes = 0;
  for await (const batch of batchesOf(patchFrames(chunks), BATCH_BYTES)) {
    await origin.bytes('/api/v1/chunks', { method: 'POST', bytes: batch });
    sentBytes += batch.length;
  }
  return sentBytes;
}
