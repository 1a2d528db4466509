import { type ChunkIndex, chunkIdFromHex, chunkIdToHex, MAX_INDEX_BYTES, sha256 } from '../content/index.ts';
import { SitecastError } from '../errors.ts';
import { ByteReader, ByteWriter } from './bytes.ts';
import {
  checkedWindows,
  type PlacedWindow,
  type RecipeWindow,
  readWindows,
  writeWindows,
} from './recipe-windows.ts';
import {
  encodeIndexDifference,
  type IndexDifference,
  noIndex,
  readIndexDifference,
  rebuiltIndex,
} from './index-difference.ts';
import { MAX_ENCODER_NAME_CHARS, MAX_RECIPE_BYTES, MAX_RECIPE_ENCODERS } from './limits.ts';

// The recipe: how a device makes a target image from a base image that it has. All numbers are LEB128 varints, `int` ones
// zigzag-coded; there is no padding, because a metered site pays for each byte.
//   magic    "SCRC", format number
//   head     text product, from {uint counter, 32 bytes SHA-256 of the index}, to {the same}, 32 bytes SHA-256 of the patch index
//   encoders uint count, each a text
//   rest     uint bytes of the frames of all chunks that neither base nor windows give
//   windows  see recipe-windows.ts
//   index    see index-difference.ts
const MAGIC = Buffer.from('SCRC');
/** The format of recipes that this version writes and reads. */
export const RECIPE_FORMAT = 1;
const MAX_PRODUCT_CHARS = 255;
const SHA256_BYTES = 32;

const CODES = { truncated: 'SITECAST_RECIPE_TRUNCATED', invalid: 'SITECAST_RECIPE_INVALID' } as const;

/** A release as a recipe names it. */
export interface RecipeRelease {
  readonly counter: number;
  /** SHA-256 of its `.caibx`, 64 lower-case hexadecimal digits: the manifest's `index.sha256`. */
  readonly indexSha256: string;
}

/** What a recipe says about both of its releases. */
export interface RecipeHead {
  readonly product: string;
  readonly from: RecipeRelease;
  readonly to: RecipeRelease;
  /** SHA-256 of the patch index (`deltas/….caibx`), 64 hexadecimal digits. */
  readonly patchIndexSha256: string;
  /** The encoders that the windows need, such as `zstd-1.5.5-wasm`. A window refers to them by their places in this list. */
  readonly encoders: readonly string[];
  /** Bytes of the frames of all chunks of the target that neither the base nor a window gives. */
  readonly restFrameBytes: number;
}

export interface Recipe extends RecipeHead {
  /** In the target's order, without overlap. The patches follow each other in the same order. */
  readonly windows: readonly RecipeWindow[];
  /** The target's index as a difference to the base's; undefined where this format can't describe it: then the index is fetched. */
  readonly indexDifference: IndexDifference | undefined;
}

/**
 * Writes a recipe, and reads it back: what `decodeRecipe`, `windowsOf` or `targetIndexOf` would refuse is refused here.
 * @param baseIndex index of the release `head.from`. The caller sets both SHA-256 in `head`.
 * @throws SITECAST_RECIPE_… as they do
 */
export function encodeRecipe(
  head: RecipeHead,
  windows: readonly RecipeWindow[],
  indexes: { readonly base: ChunkIndex; readonly target: ChunkIndex },
): Buffer {
  const difference = encodeIndexDifference(indexes.base, indexes.target);
  const bytes = write(head, windows, difference);
  const fits = bytes.length <= MAX_RECIPE_BYTES;
  const written = fits ? bytes : write(head, windows, undefined);
  windowsOf(decodeRecipe(written), indexes.base, indexes.target);
  return written;
}

function write(head: RecipeHead, windows: readonly RecipeWindow[], difference: Buffer | undefined): Buffer {
  const writer = new ByteWriter();
  writer.add(MAGIC);
  writer.uint(RECIPE_FORMAT);
  writer.text(head.product);
  for (const { counter, indexSha256 } of [head.from, head.to]) {
    writer.uint(counter);
    writer.add(chunkIdFromHex(indexSha256));
  }
  writer.add(chunkIdFromHex(head.patchIndexSha256));
  writer.uint(head.encoders.length);
  for (const name of head.encoders) writer.text(name);
  writer.uint(head.restFrameBytes);
  writeWindows(writer, windows);
  writer.byte(difference === undefined ? 0 : 1);
  if (difference !== undefined) writer.add(difference);
  return writer.finish();
}

/**
 * Reads a recipe and checks all that can be checked without the indexes. The result holds views into the bytes.
 * @throws SITECAST_RECIPE_FORMAT for a format that this version doesn't know: such a recipe isn't wrong, and is skipped
 * @throws SITECAST_RECIPE_TOO_LARGE, SITECAST_RECIPE_TRUNCATED, SITECAST_RECIPE_INVALID
 */
export function decodeRecipe(bytes: Uint8Array): Recipe {
  if (bytes.length > MAX_RECIPE_BYTES)
    throw new SitecastError(
      'tooLarge',
      'SITECAST_RECIPE_TOO_LARGE',
      `a recipe holds at most ${MAX_RECIPE_BYTES} bytes`,
      { data: { lengthBytes: bytes.length } },
    );
  const reader = new ByteReader(bytes, 'recipe', CODES);
  if (!MAGIC.equals(reader.take(MAGIC.length))) throw reader.invalid('it does not begin as one');
  const format = reader.uint('the format');
  if (format !== RECIPE_FORMAT)
    throw new SitecastError(
      'badInput',
      'SITECAST_RECIPE_FORMAT',
      `recipes of format ${format} are not known here`,
      { data: { format } },
    );
  const head = readHead(reader);
  const windows = readWindows(reader, head.encoders.length);
  const indexDifference = readKind(reader) ? readIndexDifference(reader) : undefined;
  reader.end();
  return { ...head, windows, indexDifference };
}

function readKind(reader: ByteReader): boolean {
  const kind = reader.byte();
  if (kind > 1) throw reader.invalid(`an index of kind ${kind} isn't known`);
  return kind === 1;
}

function readHead(reader: ByteReader): RecipeHead {
  const product = reader.text('the product', MAX_PRODUCT_CHARS);
  const from = readRelease(reader);
  const to = readRelease(reader);
  const patchIndexSha256 = chunkIdToHex(reader.take(SHA256_BYTES));
  const encoders = Array.from({ length: reader.uint('the number of encoders', MAX_RECIPE_ENCODERS) }, () =>
    reader.text("an encoder's name", MAX_ENCODER_NAME_CHARS),
  );
  if (new Set(encoders).size < encoders.length) throw reader.invalid('an encoder is named twice');
  const restFrameBytes = reader.uint('the bytes of the other chunks');
  return { product, from, to, patchIndexSha256, encoders, restFrameBytes };
}

function readRelease(reader: ByteReader): RecipeRelease {
  const counter = reader.uint("a release's counter");
  return { counter, indexSha256: chunkIdToHex(reader.take(SHA256_BYTES)) };
}

/**
 * The recipe's windows with their places. Checks that each lies inside of both images and within the bounds of a window.
 * @throws SITECAST_RECIPE_WINDOWS
 */
export function windowsOf(
  recipe: Pick<Recipe, 'windows'>,
  baseIndex: ChunkIndex,
  targetIndex: ChunkIndex,
): PlacedWindow[] {
  return checkedWindows(recipe.windows, baseIndex.lengthBytes, targetIndex);
}

/**
 * Rebuilds the target's index and checks that it is the very one that `recipe.to.indexSha256` names. The caller checks that this
 * is the manifest's.
 * @param maxBytes length of the index by the manifest: a recipe of a few bytes could describe 64 MiB
 * @throws SITECAST_RECIPE_INDEX where the recipe has no index, where `baseIndex` isn't that of `recipe.from`, or where the result is
 * another index: then the index is fetched
 */
export function targetIndexOf(recipe: Recipe, baseIndex: ChunkIndex, maxBytes = MAX_INDEX_BYTES): ChunkIndex {
  const difference = recipe.indexDifference;
  if (difference === undefined) throw noIndex('it holds none');
  if (sha256(baseIndex.encode()).toString('hex') !== recipe.from.indexSha256)
    throw noIndex("the base's index is another one");
  let index: ChunkIndex;
  try {
    index = rebuiltIndex(difference, baseIndex, maxBytes);
  } catch (error) {
    throw error instanceof SitecastError && error.code === 'SITECAST_RECIPE_INDEX'
      ? error
      : noIndex('no index comes out', error);
  }
  if (sha256(index.encode()).toString('hex') !== recipe.to.indexSha256)
    throw noIndex('another index comes out');
  return index;
}
