import { SitecastError } from '../errors.ts';
import { ByteReader } from './bytes.ts';
import { decodeStream } from './codecs/index.ts';
import { type ApplyMemory, HEAP_MEMORY } from './apply-memory.ts';
import { type Patch, readPatch, TRIPLE_NUMBERS } from './patch.ts';
import { closeInto, type HeldBytes, openBase, readViews, type Views } from './views.ts';

const CODES = { truncated: 'SITECAST_PATCH_TRUNCATED', invalid: 'SITECAST_PATCH_INVALID' } as const;

export interface ApplyRequest {
  readonly patch: Uint8Array;
  /** The window's whole base range. */
  readonly base: Uint8Array;
  /** How many bytes the window's chunks have. */
  readonly targetLength: number;
  /** Where the result goes: `targetLength` bytes. Default: new memory. */
  readonly into?: Uint8Array;
  /** Memory that may be overwritten until pieces are closed, such as that of the result: BESIDE_BYTES. */
  readonly beside?: Uint8Array;
  /** Memory that may be overwritten as soon as the base is opened, such as that of the base: MAX_OPENED_TARGET_BYTES. */
  readonly spare?: Uint8Array;
  /** Memory that a caller who applies many patches keeps between them. */
  readonly memory?: ApplyMemory;
}

/**
 * Makes the bytes of one window: bsdiff's loop over three decoded streams and the base. Memory: the target's length for the result, half of
 * it for the streams, at most 7 MiB for the control triples, and 4 MiB for bzip2. Where compressed pieces are opened, at most 35 MiB:
 * either the opened base and target with the streams, or the closed pieces with their encoder. Time is bounded by the lengths of base,
 * patch and target.
 *
 * A wrong base gives wrong bytes without an error: the caller compares each chunk with the signed index.
 * @returns exactly `targetLength` bytes
 * @throws SITECAST_PATCH_… (see docs/ERRORS.md)
 */
export function applyPatch(request: ApplyRequest): Uint8Array {
  const { base, targetLength, into, memory = HEAP_MEMORY } = request;
  const patch = readPatch(request.patch);
  if (patch.views !== undefined) return applyOpened(patch, readViews(patch.views), request, memory);
  if (patch.targetLength !== targetLength)
    throw new SitecastError(
      'badInput',
      'SITECAST_PATCH_LENGTH',
      `the patch makes ${patch.targetLength} bytes where the window has ${targetLength}`,
    );
  const target = into ?? new Uint8Array(targetLength);
  if (target.length !== targetLength) throw new RangeError('the memory for the target has another length');
  applyStreams(patch, base, target, memory);
  return target;
}

/**
 * Like `applyPatch`, for a patch with views: opens compressed pieces of the base, applies the streams, and closes the pieces of the target.
 * Each step is a function of its own, so that no variable keeps its memory during the next step.
 */
function applyOpened(patch: Patch, views: Views, request: ApplyRequest, memory: ApplyMemory): Uint8Array {
  const { targetLength, into, spare } = request;
  const opened = openedTarget(patch, views, request, memory);
  memory.forgetStreams();
  memory.release();
  const target = into ?? new Uint8Array(targetLength);
  closeInto(opened, views.target, target, { memory, spare });
  return target;
}

/**
 * The target before its pieces are closed. It goes into the memory of the base, but for a target of two layers: closing the outer one
 * needs that memory.
 */
function openedTarget(
  patch: Patch,
  views: Views,
  { base, spare, beside }: ApplyRequest,
  memory: ApplyMemory,
): HeldBytes {
  const opened = openBase(base, views.base, { memory });
  // The result of the outer layer isn't needed any more.
  if (views.base.length > 1) memory.release();
  const isSpare = spare !== undefined && views.base.length > 0 && views.target.length < 2;
  const target = isSpare ? spare.subarray(0, patch.targetLength) : memory.fresh(patch.targetLength);
  const bytes = (length: number) => beside?.subarray(0, length) ?? memory.bytes(length);
  applyStreams(patch, opened, target, memory, bytes);
  return { bytes: target };
}

/**
 * Fills `target` from the base and the patch's streams. The longer one of diff and extra is decoded into the end of `target` itself. The
 * loop never overwrites bytes of it that aren't used yet: between the two places lie as many bytes as the shorter stream still has to give.
 * @throws SITECAST_PATCH_…
 */
function applyStreams(
  patch: Patch,
  base: Uint8Array,
  target: Uint8Array,
  memory: ApplyMemory,
  bytes: (length: number) => Uint8Array = length => memory.bytes(length),
): void {
  const control = readControl(patch, memory, bytes);
  const diffLength = checkControl(control, base.length, target.length);
  const extraLength = target.length - diffLength;
  const atEnd = target.subarray(Math.min(diffLength, extraLength));
  const beside = bytes(Math.min(diffLength, extraLength));
  const [diff, extra] = diffLength > extraLength ? [atEnd, beside] : [beside, atEnd];
  decodeStream(patch.diff.codec, patch.diff.bytes, diff, memory.blocks);
  decodeStream(patch.extra.codec, patch.extra.bytes, extra, memory.blocks);
  let from = 0;
  let to = 0;
  let diffAt = 0;
  let extraAt = 0;
  for (let at = 0; at < control.length; at += TRIPLE_NUMBERS) {
    const add = control[at] ?? 0;
    const insert = control[at + 1] ?? 0;
    for (const end = to + add; to < end; to += 1, from += 1, diffAt += 1)
      target[to] = (base[from] ?? 0) + (diff[diffAt] ?? 0);
    target.set(extra.subarray(extraAt, extraAt + insert), to);
    to += insert;
    extraAt += insert;
    from += control[at + 2] ?? 0;
  }
}

/** The triples, decoded from their columns. */
function readControl(patch: Patch, memory: ApplyMemory, bytes: (length: number) => Uint8Array): Int32Array {
  const plain = bytes(patch.controlLength);
  decodeStream(patch.control.codec, patch.control.bytes, plain, memory.blocks);
  const reader = new ByteReader(plain, 'patch', CODES);
  const control = memory.triples(patch.tripleCount * TRIPLE_NUMBERS);
  for (let at = 0; at < control.length; at += TRIPLE_NUMBERS)
    control[at] = reader.uint('an addition', 2 ** 30);
  for (let at = 1; at < control.length; at += TRIPLE_NUMBERS)
    control[at] = reader.uint('an insertion', 2 ** 30);
  for (let at = 2; at < control.length; at += TRIPLE_NUMBERS) control[at] = reader.int('a skip', 2 ** 30);
  reader.end();
  return control;
}

/**
 * Checks that the triples fill the target exactly and read inside of the base.
 * @returns how many bytes of diff they want
 * @throws SITECAST_PATCH_RANGE, SITECAST_PATCH_LENGTH
 */
function checkControl(control: Int32Array, baseLength: number, targetLength: number): number {
  let from = 0;
  let diffLength = 0;
  let extraLength = 0;
  for (let at = 0; at < control.length; at += TRIPLE_NUMBERS) {
    const add = control[at] ?? 0;
    if (add > 0 && (from < 0 || from + add > baseLength))
      throw new SitecastError(
        'badInput',
        'SITECAST_PATCH_RANGE',
        `the patch reads ${add} bytes at ${from} of a base of ${baseLength}`,
      );
    diffLength += add;
    extraLength += control[at + 1] ?? 0;
    from += add + (control[at + 2] ?? 0);
  }
  if (diffLength + extraLength !== targetLength)
    throw new SitecastError(
      'badInput',
      'SITECAST_PATCH_LENGTH',
      `the patch makes ${diffLength + extraLength} bytes where the window has ${targetLength}`,
    );
  return diffLength;
}
