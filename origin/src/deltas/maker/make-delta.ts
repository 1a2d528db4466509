import type { ChunkIndex } from '@sitecast/shared/content';
import { MAX_WINDOW_BASE_BYTES, MAX_WINDOW_TARGET_BYTES } from '@sitecast/shared/delta';
import { DeadlinePassed, MakerChild } from './maker-child.ts';
import {
  baseLengthOf,
  baseRange,
  cutStretches,
  missingChunks,
  type WindowPlace,
  type WindowSizes,
} from './windows.ts';

/** An image whose index and bytes are at hand. */
export interface ImageSource {
  readonly index: ChunkIndex;
  /** @returns exactly the image's bytes from `offset` on, `lengthBytes` of them */
  read(offset: number, lengthBytes: number): Promise<Uint8Array>;
}

export interface DeltaRequest {
  readonly base: ImageSource;
  readonly target: ImageSource;
  /** Bytes of the frame of chunk number `chunk` of the target: what a device would fetch without the delta. */
  readonly frameBytes: (chunk: number) => number | Promise<number>;
  /**
   * Whether this window was made before, by a run that was interrupted: it's left out. The same images are cut into the
   * same windows by the same version of this program.
   */
  readonly isMade?: (place: WindowPlace) => boolean;
  /** How long the patch of one window may take, in ms; 10 minutes unless given. */
  readonly patchDeadlineMs?: number;
  readonly sizes?: WindowSizes;
  /** Priority of the process that does the work: 0, as all others, to 19, the lowest, which it has unless given. */
  readonly niceness?: number;
  readonly signal?: AbortSignal;
}

/** What became of a window. */
export interface MadeWindow extends WindowPlace {
  /** Bytes of the frames of those of its chunks that the base holds nowhere. */
  readonly frameBytes: number;
  /** Undefined where its chunks are to be sent as they are: see `unmade`. */
  readonly patch: Uint8Array | undefined;
  /** Why there is no patch: it would not be smaller than the frames, took too long, or the process that makes it failed. */
  readonly unmade?: 'notSmaller' | 'deadline' | 'failed';
  /** What went wrong, where it failed: for the log. */
  readonly failure?: string;
}

const DEFAULT_WINDOW_SIZES: WindowSizes = {
  maxTargetBytes: MAX_WINDOW_TARGET_BYTES,
  maxBaseBytes: MAX_WINDOW_BASE_BYTES,
  maxGapBytes: 0,
};
const LOWEST_PRIORITY = 19;
const DEFAULT_DEADLINE_MS = 600_000;
/** Reads and samples the base by this much. */
const BLOCK_BYTES = 4 * 1024 * 1024;

/**
 * Makes the windows of a delta, in the target's order, each as soon as the one before is taken: the caller keeps what it
 * was given before it asks for more. The work is done in a process of its own, at the lowest priority, in memory that
 * doesn't grow with the images (about 350 MiB); this process reads the images and waits.
 * @throws SITECAST_WORKER_FAILED where no process can be started; what `read` and `frameBytes` throw; the signal's reason
 */
export async function* makeDelta(request: DeltaRequest): AsyncGenerator<MadeWindow> {
  const { base, target, signal, patchDeadlineMs = DEFAULT_DEADLINE_MS } = request;
  const missing = missingChunks(base.index, target.index);
  const child = new MakerChild(request.niceness ?? LOWEST_PRIORITY);
  try {
    for (const place of await placeWindows(child, request, missing)) {
      if (request.isMade?.(place) === true) continue;
      const frameBytes = await framesOf(request, place, missing);
      const task = {
        name: 'patch',
        base: await base.read(place.baseOffset, place.baseLength),
        target: await target.read(place.targetOffset, place.targetLength),
        worthBytes: frameBytes,
      } as const;
      let made: Pick<MadeWindow, 'patch' | 'unmade' | 'failure'>;
      try {
        const patch = await child.ask(task, patchDeadlineMs, signal);
        made = patch === undefined ? { patch, unmade: 'notSmaller' } : { patch };
      } catch (error) {
        signal?.throwIfAborted();
        made = unmadeBy(error);
      }
      yield { ...place, frameBytes, ...made };
    }
  } finally {
    await child.end();
  }
}

function unmadeBy(error: unknown): Pick<MadeWindow, 'patch' | 'unmade' | 'failure'> {
  if (error instanceof DeadlinePassed) return { patch: undefined, unmade: 'deadline' };
  return {
    patch: undefined,
    unmade: 'failed',
    failure: error instanceof Error ? error.message : String(error),
  };
}

/** The windows, without patches: cut from the target's missing chunks, each with a range of the base. */
async function placeWindows(
  child: MakerChild,
  { base, target, signal, sizes = DEFAULT_WINDOW_SIZES }: DeltaRequest,
  missing: readonly boolean[],
): Promise<WindowPlace[]> {
  const stretches = cutStretches(target.index, missing, sizes);
  if (stretches.length === 0) return [];
  const baseBytes = base.index.lengthBytes;
  await child.ask({ name: 'begin', baseBytes }, DEFAULT_DEADLINE_MS, signal);
  for (let offset = 0; offset < baseBytes; offset += BLOCK_BYTES) {
    const bytes = await base.read(offset, Math.min(BLOCK_BYTES, baseBytes - offset));
    await child.ask({ name: 'sample', offset, bytes }, DEFAULT_DEADLINE_MS, signal);
  }
  const places: WindowPlace[] = [];
  let near = 0;
  for (const stretch of stretches) {
    const bytes = await target.read(stretch.targetOffset, stretch.targetLength);
    const hits = await child.ask({ name: 'find', bytes }, DEFAULT_DEADLINE_MS, signal);
    const lengthBytes = baseLengthOf(stretch.targetLength, sizes.maxBaseBytes);
    const range = baseRange(hits, near, lengthBytes, baseBytes);
    near = range.baseOffset + range.baseLength / 2;
    places.push({ ...stretch, ...range });
  }
  return places;
}

/** Bytes of the frames of the window's missing chunks. */
async function framesOf(
  { frameBytes }: DeltaRequest,
  { firstChunk, chunkCount }: WindowPlace,
  missing: readonly boolean[],
): Promise<number> {
  let sum = 0;
  for (let chunk = firstChunk; chunk < firstChunk + chunkCount; chunk++) {
    if (missing[chunk] === true) sum += await frameBytes(chunk);
  }
  return sum;
}
