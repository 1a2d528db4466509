import { MAX_CHUNK_BYTES } from '../content/limits.ts';

/** Bounds of recipes and patches. docs/LIMITS.md lists them; each has a test at the bound. */

/** The longest recipe. It's a signed target that the holder of the online key `deltas` can write. */
export const MAX_RECIPE_BYTES = 4 * 1024 * 1024;

/** The longest index of patches: 100,000 chunks, which are a GiB and more. The holder of the same key can write it. */
export const MAX_PATCH_INDEX_BYTES = 4 * 1024 * 1024;

/** Most windows of one recipe. */
export const MAX_RECIPE_WINDOWS = 65_536;

/** Most encoders that one recipe can name, and the longest name. */
export const MAX_RECIPE_ENCODERS = 16;
export const MAX_ENCODER_NAME_CHARS = 64;

/** The longest run of target bytes that one window gives. */
export const MAX_WINDOW_TARGET_BYTES = 4 * 1024 * 1024;

/** The longest range of the base that one window reads. */
export const MAX_WINDOW_BASE_BYTES = 8 * 1024 * 1024;

/**
 * The longest base range, extended to whole chunks: the device verifies those before it uses the range. An opened target, which isn't
 * longer, is put into the same memory.
 */
export const MAX_BASE_MEMORY_BYTES = MAX_WINDOW_BASE_BYTES + 2 * MAX_CHUNK_BYTES;

/** The longest patch. A window whose patch is as long as its target isn't worth a patch. */
export const MAX_PATCH_BYTES = 4 * 1024 * 1024;

/** Most control triples of one patch: one for 16 bytes of the longest target. */
export const MAX_TRIPLES = 2 ** 18;

/** The longest coded control columns, in plain bytes: MAX_TRIPLES with three varints of at most 5 bytes. */
export const MAX_CONTROL_BYTES = MAX_TRIPLES * 15;

/** The longest target of a patch, opened: a window's chunks, and the whole of compressed pieces that lie partly outside of the window. */
export const MAX_OPENED_TARGET_BYTES = 10 * 1024 * 1024;

/** The longest base range of a patch, opened; for each of two layers. */
export const MAX_OPENED_BASE_BYTES = 10 * 1024 * 1024;

/** The longest compressed piece, opened or not: an LZ4 block of a kernel. */
export const MAX_PIECE_BYTES = 8 * 1024 * 1024;

/** Most pieces of one layer of a view: more than an opened base has blocks of 4 KiB. */
export const MAX_VIEW_PIECES = 4352;
