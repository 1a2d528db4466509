import { MAX_WINDOW_BASE_BYTES, MAX_WINDOW_TARGET_BYTES } from '@sitecast/shared/delta';
import { BoundPassed, DeadlinePassed, failed, MakerChild } from './maker-child.ts';
import type { ByteSource } from './opening/byte-source.ts';
import { openedAlike, openImage } from './opening/open-image.ts';
import type { ImageRange, OpenedImage } from './opening/opened-image.ts';
import type { RangeBytes } from './opening/window-views.ts';
import type { DeltaRequest, ImageSource, MadeWindow, WindowPlace } from '../maker-port.ts';
import { baseLengthOf, baseRange, cutStretches, missingChunks, type WindowSizes } from './windows.ts';

/** Further options, for tests and benchmarks. */
interface MakeRequest extends DeltaRequest {
  readonly sizes?: WindowSizes;
  /** Priority of the maker process: 0 (normal) to 19 (lowest, the default). */
  readonly niceness?: number;
  /** Memory that the process may take, in bytes. Default: 1 GiB. */
  readonly maxResidentBytes?: number;
}

const DEFAULT_WINDOW_SIZES: WindowSizes = {
  maxTargetBytes: MAX_WINDOW_TARGET_BYTES,
  maxBaseBytes: MAX_WINDOW_BASE_BYTES,
  maxGapBytes: 0,
};
const LOWEST_PRIORITY = 19;
const DEFAULT_DEADLINE_MS = 600_000;
/** The base is read and sampled in blocks of this length. */
const BLOCK_BYTES = 4 * 1024 * 1024;

/**
 * Makes the windows of a delta in the target's order. It makes the next one only when the caller asks for it, so the caller can store each
 * before. A process of its own does the work at the lowest priority, in memory that doesn't grow with the images (about 200 MiB); this
 * process reads the images and waits.
 * @throws SITECAST_WORKER_FAILED where no process can be started; what `read` and `frameBytes` throw; the signal's reason
 */
export async function* makeDelta(request: MakeRequest): AsyncGenerator<MadeWindow> {
  const { base, target, signal, patchDeadlineMs = DEFAULT_DEADLINE_MS } = request;
  const missing = missingChunks(base.index, target.index);
  const child = new MakerChild(request.niceness ?? LOWEST_PRIORITY, request.maxResidentBytes);
  try {
    for (const { place, baseRange, targetRange } of await placedWindows(child, request, missing)) {
      if (request.isMade?.(place) === true) continue;
      const frameBytes = await framesOf(request, place, missing);
      const from = place.targetOffset - targetRange.offset;
      const task = {
        name: 'patch',
        base: await readRange(base, baseRange),
        target: { ...(await readRange(target, targetRange)), from, to: from + place.targetLength },
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

interface PlacedWindow {
  readonly place: WindowPlace;
  /** The ranges of the images that are needed, and how they are opened. */
  readonly baseRange: ImageRange;
  readonly targetRange: ImageRange;
}

/** Like `placeWindows`. @throws SITECAST_WORKER_FAILED also where the process took too much time or memory */
async function placedWindows(...task: Parameters<typeof placeWindows>): Promise<PlacedWindow[]> {
  try {
    return await placeWindows(...task);
  } catch (error) {
    throw error instanceof BoundPassed ? failed(error.message) : error;
  }
}

/** Places the windows, without patches: cut from the target's missing chunks, each with a range of the base. */
async function placeWindows(
  child: MakerChild,
  request: MakeRequest,
  missing: readonly boolean[],
): Promise<PlacedWindow[]> {
  const { target, signal, sizes = DEFAULT_WINDOW_SIZES } = request;
  if (!missing.includes(true)) return [];
  const opened = await openBoth(child, request);
  const stretches = cutStretches(target.index, missing, sizes, (from, at, to) =>
    opened.target.mayJoin(from, at, to, sizes.maxTargetBytes),
  );
  await takeSamples(child, request, opened.base);
  const windows: PlacedWindow[] = [];
  let near = 0;
  for (const stretch of stretches) {
    const [from, to] = [stretch.targetOffset, stretch.targetOffset + stretch.targetLength];
    const targetRange = opened.target.targetRange(from, to);
    const task = { name: 'find', ...(await readRange(target, targetRange)) } as const;
    const hits = await child.ask(task, DEFAULT_DEADLINE_MS, signal);
    const lengthBytes = baseLengthOf(opened.target.openedLength(from, to), sizes.maxBaseBytes);
    const { baseOffset, baseLength } = baseRange(hits, near, lengthBytes, opened.base.openedBytes);
    near = baseOffset + baseLength / 2;
    const range = opened.base.baseRange(baseOffset, baseOffset + baseLength);
    const place = { ...stretch, baseOffset: range.offset, baseLength: range.length };
    windows.push({ place, baseRange: range, targetRange });
  }
  return windows;
}

/** Finds the compressed pieces of both images. */
async function openBoth(
  child: MakerChild,
  { base, target, encoders, signal }: MakeRequest,
): Promise<{ base: OpenedImage; target: OpenedImage }> {
  const open = (image: ImageSource): Promise<OpenedImage> =>
    openImage(
      bytesOf(image),
      {
        pieces: source =>
          child.ask(
            { name: 'pieces', sizeBytes: source.sizeBytes },
            DEFAULT_DEADLINE_MS,
            signal,
            (offset, length) => {
              if (offset + length > source.sizeBytes)
                throw new RangeError('a part beyond the end of the image');
              return source.read(offset, length);
            },
          ),
        scan: task => child.ask({ name: 'scan', ...task }, DEFAULT_DEADLINE_MS, signal),
        probe: ({ layers }, bytes, at) =>
          child.ask({ name: 'probe', bytes, layers, at }, DEFAULT_DEADLINE_MS, signal),
      },
      encoders,
    );
  const [openedBase, openedTarget] = openedAlike(await open(base), await open(target));
  return { base: openedBase, target: openedTarget };
}

function bytesOf(image: ImageSource): ByteSource {
  return { sizeBytes: image.index.lengthBytes, read: (offset, length) => image.read(offset, length) };
}

async function takeSamples(
  child: MakerChild,
  { base, signal }: MakeRequest,
  opened: OpenedImage,
): Promise<void> {
  await child.ask({ name: 'begin', baseBytes: opened.openedBytes }, DEFAULT_DEADLINE_MS, signal);
  for (const { range, openedOffset, from, length } of opened.parts(BLOCK_BYTES)) {
    const task = {
      name: 'sample',
      ...(await readRange(base, range)),
      offset: openedOffset,
      from,
      length,
    } as const;
    await child.ask(task, DEFAULT_DEADLINE_MS, signal);
  }
}

async function readRange(image: ImageSource, { offset, length, layers }: ImageRange): Promise<RangeBytes> {
  return { bytes: await image.read(offset, length), layers };
}

/** Bytes of the frames of the window's missing chunks. */
async function framesOf(
  { frameBytes }: MakeRequest,
  { firstChunk, chunkCount }: WindowPlace,
  missing: readonly boolean[],
): Promise<number> {
  let sum = 0;
  for (let chunk = firstChunk; chunk < firstChunk + chunkCount; chunk++) {
    if (missing[chunk] === true) sum += await frameBytes(chunk);
  }
  return sum;
}
