import { z } from 'zod';
import { SitecastError } from '../errors.ts';
import { counterSchema, nameSchema, versionSchema } from './names.ts';

export const MAX_MANIFEST_BYTES = 64 * 1024;
export const MAX_PRODUCT_BYTES = 64 * 1024;
export const MAX_NOTES_CHARS = 16 * 1024;
export const MAX_HARDWARE = 256;
/** Withdrawn releases that a product file remembers. */
export const MAX_WITHDRAWN = 256;
/** 16 TiB: what a slot may hold at the most. */
export const MAX_IMAGE_BYTES = 2 ** 44;

const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/, '64 lower-case hexadecimal digits');
const hardwareSchema = z
  .array(nameSchema)
  .min(1)
  .max(MAX_HARDWARE)
  .refine(names => new Set(names).size === names.length, 'a hardware is named twice');

/** A release label together with the counter that orders it. */
const releaseRefSchema = z.strictObject({ counter: counterSchema, version: versionSchema });

/**
 * The release manifest, target `releases/PRODUCT-COUNTER.json`. Unknown fields are kept and ignored, so that an
 * older reader understands a newer manifest; what an old reader must not ignore gets a new `format`.
 */
const releaseManifestSchema = z.looseObject({
  format: z.literal('sitecast-release-1'),
  product: nameSchema,
  counter: counterSchema,
  version: versionSchema,
  hardware: hardwareSchema,
  image: z.looseObject({
    lengthBytes: z.int().min(1).max(MAX_IMAGE_BYTES),
    /** Of the whole image: for people and scripts to compare; devices check the chunks of the index. */
    sha256: sha256Schema,
    chunks: z.int().min(1),
  }),
  /** The index, a target of its own: named here by hash, so that manifest and index can't be mixed. */
  index: z.looseObject({ sha256: sha256Schema, lengthBytes: z.int().min(1) }),
  /** A device below this release must first install it: the stepping stone. */
  minimum: releaseRefSchema.optional(),
  notes: z.string().max(MAX_NOTES_CHARS).optional(),
  createdAt: z.iso.datetime(),
});
export type ReleaseManifest = z.infer<typeof releaseManifestSchema>;

/** What is signed of a product as a whole, target `products/PRODUCT.json`. */
const productFileSchema = z.looseObject({
  format: z.literal('sitecast-product-1'),
  product: nameSchema,
  hardware: hardwareSchema,
  /** The highest counter ever published, withdrawn ones too: a counter is never given twice. */
  lastCounter: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
  /** No order may bring a device below it. Counter 0: no floor. */
  floor: z.strictObject({
    counter: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
    version: versionSchema.optional(),
  }),
  /** In the order of their counters: a version is never given twice. Beyond the bound the lowest are forgotten. */
  withdrawn: z.array(releaseRefSchema).max(MAX_WITHDRAWN).optional(),
});
export type ProductFile = z.infer<typeof productFileSchema>;

/** What a product file must remember as withdrawn, once these releases are no longer listed. */
export function withdrawnAfter(
  { withdrawn = [] }: Pick<ProductFile, 'withdrawn'>,
  releases: readonly z.infer<typeof releaseRefSchema>[],
): z.infer<typeof releaseRefSchema>[] {
  const added = releases.map(({ counter, version }) => ({ counter, version }));
  return [...withdrawn, ...added].sort((a, b) => a.counter - b.counter).slice(-MAX_WITHDRAWN);
}

/** @throws SITECAST_MANIFEST_INVALID */
export function parseReleaseManifest(bytes: Uint8Array): ReleaseManifest {
  return parseJson(
    bytes,
    MAX_MANIFEST_BYTES,
    releaseManifestSchema,
    'SITECAST_MANIFEST_INVALID',
    'the release manifest',
  );
}

/** @throws SITECAST_PRODUCT_INVALID */
export function parseProductFile(bytes: Uint8Array): ProductFile {
  return parseJson(
    bytes,
    MAX_PRODUCT_BYTES,
    productFileSchema,
    'SITECAST_PRODUCT_INVALID',
    'the product file',
  );
}

/** The bytes of a manifest or product file as they are signed and served. */
export function serializeFile(value: ReleaseManifest | ProductFile): Buffer {
  return Buffer.from(`${JSON.stringify(value, null, 1)}\n`);
}

function parseJson<T>(
  bytes: Uint8Array,
  maxBytes: number,
  schema: z.ZodType<T>,
  code: `SITECAST_${string}`,
  what: string,
): T {
  if (bytes.length > maxBytes)
    throw new SitecastError('badInput', code, `${what} is larger than ${maxBytes} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new SitecastError('badInput', code, `${what} is not JSON`, { cause: error });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new SitecastError('badInput', code, `${what} is invalid: ${z.prettifyError(result.error)}`);
}
