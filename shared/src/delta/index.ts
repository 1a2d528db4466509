export { applicableEncoders, PatchApplier } from './applier.ts';
export { type ApplyRequest, applyPatch } from './apply.ts';
export { deflateParameter, PIECE_CODECS, type PieceCodec, pieceCodec } from './encoders/index.ts';
export { decodeLz4Beginning, decodeLz4Block } from './encoders/lz4-block.ts';
export {
  MAX_BASE_MEMORY_BYTES,
  MAX_ENCODER_NAME_CHARS,
  MAX_OPENED_BASE_BYTES,
  MAX_OPENED_TARGET_BYTES,
  MAX_PATCH_BYTES,
  MAX_PATCH_INDEX_BYTES,
  MAX_PIECE_BYTES,
  MAX_RECIPE_BYTES,
  MAX_RECIPE_ENCODERS,
  MAX_RECIPE_WINDOWS,
  MAX_TRIPLES,
  MAX_VIEW_PIECES,
  MAX_WINDOW_BASE_BYTES,
  MAX_WINDOW_TARGET_BYTES,
} from './limits.ts';
export {
  encodePatch,
  type Patch,
  type PatchStreams,
  readPatch,
  type StreamEncoder,
  TRIPLE_NUMBERS,
} from './patch.ts';
export {
  decodeRecipe,
  encodeRecipe,
  RECIPE_FORMAT,
  type Recipe,
  type RecipeHead,
  type RecipeRelease,
  targetIndexOf,
  windowsOf,
} from './recipe.ts';
export { applicableWith, type PlacedWindow, type RecipeWindow } from './recipe-windows.ts';
export {
  CHUNK_WAYS,
  type ChunkWay,
  type Plan,
  type PlanBytes,
  type PlanInput,
  planUpdate,
  type WindowCosts,
} from './plan.ts';
export { zeroChunks } from './zero-chunks.ts';
export {
  type BaseLayer,
  closeTarget,
  encodersIn,
  openBase,
  readViews,
  type TargetLayer,
  type Views,
  writeViews,
} from './views.ts';
export { isWorthFetching, patchChunkBytes, patchChunksOf } from './patch-chunks.ts';
export { garbageCollector } from './garbage.ts';
