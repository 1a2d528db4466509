import { join } from 'node:path';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { gatewayAddressesSchema } from '@sitecast/shared/api';
import { idSchema, siteSchema } from '@sitecast/shared/fleet';
import { z } from 'zod';
import { type PeerBookStorage, type KnownGateway, MAX_KNOWN_GATEWAYS } from '../peer-gateways/peer-book.ts';

export const MAX_BOOK_BYTES = 256 * 1024;
const FORMAT = 'sitecast-known-gateways-1';
const schema = z.object({
  format: z.literal(FORMAT),
  gateways: z
    .array(gatewayAddressesSchema.extend({ id: idSchema, site: siteSchema.optional() }))
    .max(MAX_KNOWN_GATEWAYS),
});

/** `gateways.json` in the data directory. */
export class PeerBookFile implements PeerBookStorage {
  readonly #path: string;

  constructor(dataDirectory: string) {
    this.#path = join(dataDirectory, 'gateways.json');
  }

  async load(): Promise<KnownGateway[]> {
    try {
      const bytes = await readFileBounded(this.#path, MAX_BOOK_BYTES);
      return schema.parse(JSON.parse(bytes.toString('utf8'))).gateways;
    } catch (error) {
      // The file only saves time: an unusable one counts as none, and is replaced.
      const isUnusable = error instanceof SyntaxError || error instanceof z.ZodError;
      if (isUnusable || isSystemError(error, 'ENOENT') || isTooLarge(error)) return [];
      throw error;
    }
  }

  async save(gateways: readonly KnownGateway[]): Promise<void> {
    await writeFileDurably(this.#path, `${JSON.stringify({ format: FORMAT, gateways })}\n`, 0o600);
  }
}

function isTooLarge(error: unknown): boolean {
  return error instanceof SitecastError && error.code === 'SITECAST_FILE_TOO_LARGE';
}
