import { join } from 'node:path';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import { z } from 'zod';

const MAX_BYTES = 4096;
const schema = z.object({ format: z.literal('sitecast-gateway-origin-1'), origin: z.url() });

/** The origin that a gateway began with, in its data directory, so that it needs its join token only once. */
export class OriginFile {
  readonly #path: string;

  constructor(dataDirectory: string) {
    this.#path = join(dataDirectory, 'origin.json');
  }

  /** @returns undefined before the gateway has begun */
  async origin(): Promise<string | undefined> {
    try {
      const bytes = await readFileBounded(this.#path, MAX_BYTES);
      return schema.parse(JSON.parse(bytes.toString('utf8'))).origin;
    } catch (error) {
      // The file only saves asking for the origin: an unusable one counts as none.
      if (isSystemError(error, 'ENOENT') || error instanceof SyntaxError || error instanceof z.ZodError)
        return undefined;
      throw error;
    }
  }

  async remember(origin: string | undefined): Promise<void> {
    if (origin === undefined || origin === (await this.origin())) return;
    await writeFileDurably(
      this.#path,
      `${JSON.stringify({ format: 'sitecast-gateway-origin-1', origin })}\n`,
      0o600,
    );
  }
}
