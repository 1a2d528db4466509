import { BATCH_HEAD_BYTES, batchesOf, MAX_BATCH_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import type { Log } from '../log.ts';
import { type ListedRelease, readListing } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import type { RepositoryStore } from '../repository/repository-store.ts';
import { demandRoom, type Room } from '../room.ts';
import type { ChunkStaging } from '../staging/ports.ts';
import type { DeltaWork, FinishedWindow, KeptWindow } from './delta-work.ts';
import type { DeltaJob } from './job.ts';
import {
  type ComposedDelta,
  type ComposedWindow,
  deltaCosts,
  type DeltaMaker,
  MAX_DELTA_PATCH_BYTES,
  type MadeWindow,
  type WindowPlace,
} from './maker-port.ts';
import { patchFrames } from './patch-frames.ts';
import { PublishedImage } from './published-image.ts';

/** How long one delta may take, and one window of it. For windows that aren't made in that time, devices fetch chunks. */
const DELTA_DEADLINE_MS = 6 * 3_600_000;
const WINDOW_DEADLINE_MS = 10 * 60_000;
/** The most bytes on disk for windows of other deltas: those that failed or were interrupted. */
const MAX_OTHER_BYTES = 256 * 1024 * 1024;
/** Bytes of one batch that is staged. */
const BATCH_BYTES = MAX_BATCH_BYTES / 2;

export interface MakeDeps {
  repository: Repository;
  published: Pick<RepositoryStore, 'open'>;
  chunks: Pick<ChunkStaging, 'stage'>;
  work: Pick<DeltaWork, 'windows' | 'patch' | 'keepWindow' | 'makeRoomFor'>;
  maker: DeltaMaker;
  room: Room;
  log: Log;
}

interface Images {
  base: PublishedImage;
  target: PublishedImage;
  from: ListedRelease;
  to: ListedRelease;
}

/** What is known of a delta while it is being made. */
type Progress = Pick<DeltaJob, 'doneBasisPoints' | 'patches' | 'patchBytes'>;

interface MakeOptions {
  /** Interrupts making it. Finished windows are kept. */
  signal: AbortSignal;
  /** Names of the encoders that windows may need; undefined: any. */
  encoders: readonly string[] | undefined;
  onProgress: (progress: Progress) => void;
}

/**
 * Makes a delta and publishes it. Each finished window is kept, so that a later call continues after it.
 * @returns the new fields of the job
 * @throws SITECAST_RELEASE_UNKNOWN, SITECAST_CHUNKS_LOST, SITECAST_FILES_LOST, SITECAST_NO_SPACE, SITECAST_WORKER_FAILED, and as
 *   `Repository.changeDeltas`
 */
export async function makeOne(
  deps: MakeDeps,
  delta: DeltaName,
  { signal, encoders, onProgress }: MakeOptions,
): Promise<Pick<DeltaJob, 'state'> & Partial<DeltaJob>> {
  const images = await openImages(deps, delta);
  await deps.work.makeRoomFor(delta, MAX_OTHER_BYTES);
  const windows = await finishWindows(deps, delta, images, { signal, encoders, onProgress });
  const head = {
    product: delta.product,
    from: { counter: delta.from, indexSha256: images.from.index.sha256 },
    to: { counter: delta.to, indexSha256: images.to.index.sha256 },
  };
  const indexes = { base: images.base.index, target: images.target.index };
  const composed = await deps.maker.composeDelta(head, indexes, windows, at => images.target.frameBytes(at));
  const patchIndex = Buffer.from(composed.patchIndex.encode());
  const { recipe } = composed;
  // Even a recipe without windows can save bytes: the index as a difference is shorter than the index.
  const { pays, chunkBytes, headBytes, restBytes } = deltaCosts(
    composed,
    windows,
    images.to.index.lengthBytes,
  );
  if (!pays) return { state: 'notWorth', chunkBytes };
  const frameBytes = await stagePatches(deps.chunks, composed);
  signal.throwIfAborted();
  await deps.repository.changeDeltas({ added: [{ ...delta, recipe, patchIndex }] });
  return {
    state: 'published',
    patches: windows.length,
    patchBytes: windows.length > 0 ? frameBytes : 0,
    headBytes,
    restBytes,
    chunkBytes,
  };
}

async function openImages(
  { repository, published }: MakeDeps,
  { product, from, to }: DeltaName,
): Promise<Images> {
  const { committed, content } = repository;
  const releases = committed && readListing(committed.targets.signed).releases.get(product);
  const [fromRelease, toRelease] = [releases?.get(from), releases?.get(to)];
  if (!fromRelease || !toRelease) {
    const counter = fromRelease ? to : from;
    const message = `${product} has no published release with the counter ${counter}`;
    throw new SitecastError('notFound', 'SITECAST_RELEASE_UNKNOWN', message);
  }
  return {
    base: await PublishedImage.open({ content, published }, fromRelease),
    target: await PublishedImage.open({ content, published }, toRelease),
    from: fromRelease,
    to: toRelease,
  };
}

/** @returns the windows that have a patch, in the target's order */
async function finishWindows(
  { work, maker, room, log }: MakeDeps,
  delta: DeltaName,
  { base, target }: Images,
  { signal, encoders, onProgress }: MakeOptions,
): Promise<ComposedWindow[]> {
  const kept = new Map((await work.windows(delta)).map(window => [window.firstChunk, window]));
  const patched: ComposedWindow[] = [];
  let patchBytes = 0;
  const use = ({ patchLength, ...place }: FinishedWindow): void => {
    if (patchLength !== undefined) {
      const readPatch = () => patchOf(work, delta, place.firstChunk);
      patched.push({ ...place, patchLength, readPatch });
      patchBytes += patchLength;
    }
    const done = (place.targetOffset + place.targetLength) / target.index.lengthBytes;
    onProgress({ doneBasisPoints: Math.floor(10_000 * done), patches: patched.length, patchBytes });
  };
  const deadline = AbortSignal.timeout(DELTA_DEADLINE_MS);
  const making = maker.makeDelta({
    base,
    target,
    frameBytes: chunk => target.frameBytes(chunk),
    isMade: place => {
      const window = kept.get(place.firstChunk);
      // Another version of this program may have cut the image into windows differently.
      if (!window || !isSamePlace(window, place)) return false;
      use(window);
      return true;
    },
    ...(encoders && { encoders }),
    patchDeadlineMs: WINDOW_DEADLINE_MS,
    signal: AbortSignal.any([signal, deadline]),
  });
  try {
    for await (const made of making) {
      await demandRoom(room);
      const { firstChunk, unmade, failure: detail } = made;
      if (unmade === 'failed' || unmade === 'deadline')
        log.warn({ ...delta, firstChunk, unmade, detail }, 'a window has no patch: its chunks are sent');
      const window = keptOf(made);
      await work.keepWindow(delta, window);
      const { patch, ...place } = window;
      use({ ...place, patchLength: patch?.length });
      if (patchBytes > MAX_DELTA_PATCH_BYTES) break;
    }
  } catch (error) {
    signal.throwIfAborted();
    // After the deadline, the finished windows are published; devices fetch chunks for the rest.
    if (!deadline.aborted) throw error;
  }
  return patched.sort((one, other) => one.firstChunk - other.firstChunk);
}

async function patchOf(
  work: Pick<DeltaWork, 'patch'>,
  delta: DeltaName,
  firstChunk: number,
): Promise<Buffer> {
  const patch = await work.patch(delta, firstChunk);
  if (patch) return patch;
  throw new Error(`the patch of the window at chunk ${firstChunk} can't be read back: it is made again`);
}

function keptOf({ patch, frameBytes, ...made }: MadeWindow): KeptWindow {
  const { firstChunk, chunkCount, targetOffset, targetLength, baseOffset, baseLength } = made;
  const place = { firstChunk, chunkCount, targetOffset, targetLength, baseOffset, baseLength };
  return { ...place, frameBytes, patch: patch && Buffer.from(patch) };
}

function isSamePlace(one: WindowPlace, other: WindowPlace): boolean {
  const fields = ['firstChunk', 'chunkCount', 'baseOffset', 'baseLength'] as const;
  return fields.every(field => one[field] === other[field]);
}

/** Stages the patches. @returns bytes of their frames */
async function stagePatches(
  staging: Pick<ChunkStaging, 'stage'>,
  { chunks }: Pick<ComposedDelta, 'chunks'>,
): Promise<number> {
  let [frameBytes, count] = [0, 0];
  const entries = patchFrames(chunks(), () => (count += 1));
  for await (const batch of batchesOf(entries, BATCH_BYTES)) {
    // Counted before `stage`, which transfers the batch: afterwards it has no length.
    frameBytes += batch.length;
    const { error } = await staging.stage(batch.buffer, batch.length);
    if (error) throw error;
  }
  return frameBytes - count * BATCH_HEAD_BYTES;
}
