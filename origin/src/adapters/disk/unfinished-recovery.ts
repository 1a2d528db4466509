import { join } from 'node:path';
import { readFileBounded, removeDurably, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';

const FILE_NAME = 'recovery-unfinished.json';
const MAX_BYTES = 64 * 1024;
const schema = z.object({ lost: z.string().optional() });

/**
 * A recovery accepts the database's loss before it has paused rollouts and recorded the loss. Until all of that is done, this note keeps
 * the origin from starting as if nothing had happened. It says in words what was lost.
 */
export class UnfinishedRecovery {
  readonly #path: string;
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    this.#path = join(directory, FILE_NAME);
  }

  /** @returns what an earlier one, that didn't end, had found lost; `begun` tells whether there was one */
  async begin(): Promise<{ begun: boolean; lost: string | undefined }> {
    const earlier = await this.#read();
    if (!earlier) await this.note(undefined);
    return { begun: earlier !== undefined, lost: earlier?.lost };
  }

  async note(lost: string | undefined): Promise<void> {
    await writeFileDurably(this.#path, JSON.stringify({ ...(lost !== undefined && { lost }) }), 0o600);
  }

  async end(): Promise<void> {
    await removeDurably(this.#path);
  }

  /** @throws SITECAST_RECOVERY_UNFINISHED (conflict) */
  async refuse(): Promise<void> {
    const earlier = await this.#read();
    if (!earlier) return;
    throw new SitecastError(
      'conflict',
      'SITECAST_RECOVERY_UNFINISHED',
      `a recovery of ${this.#directory} was begun and has not ended${earlier.lost === undefined ? '' : `: ${earlier.lost}`}`,
      { hint: `Run it to its end, with the same --from: sitecast-origin recover --data ${this.#directory}` },
    );
  }

  async #read(): Promise<z.infer<typeof schema> | undefined> {
    let text: string;
    try {
      text = (await readFileBounded(this.#path, MAX_BYTES)).toString('utf8');
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return undefined;
      // It's there, whatever it says.
      return {};
    }
    try {
      return schema.parse(JSON.parse(text));
    } catch {
      // As above.
      return {};
    }
  }
}
