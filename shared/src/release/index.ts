export {
  MAX_HARDWARE,
  MAX_IMAGE_BYTES,
  MAX_MANIFEST_BYTES,
  MAX_NOTES_CHARS,
  MAX_PRODUCT_BYTES,
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  type ReleaseManifest,
  serializeFile,
  withdrawnAfter,
} from './formats.ts';
export {
  counterSchema,
  indexTarget,
  manifestTarget,
  nameSchema,
  parseTargetName,
  productTarget,
  type TargetName,
  versionSchema,
} from './names.ts';
