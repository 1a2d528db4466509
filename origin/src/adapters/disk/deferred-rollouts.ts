import { MAX_ROLLOUTS_BYTES } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { Log } from '../../log.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';

const PATH = 'rollouts-to-publish.json';
/** Files of 16 products at their own bound: they are far smaller as a rule. */
const MAX_BYTES = 16 * MAX_ROLLOUTS_BYTES;

const schema = z.object({
  format: z.literal('sitecast-rollouts-to-publish-1'),
  /** By target name, as in `rollouts/camera.json`. */
  files: z.record(z.string(), z.string()),
});

/** Rollout files that are decided and wait for a key, in one file. */
export class DeferredRollouts {
  readonly #files: Files;
  #byName: ReadonlyMap<string, Buffer> = new Map();

  private constructor(files: Files) {
    this.#files = files;
  }

  /** A file that can't be read is logged, and counts as empty. */
  static async open(files: Files, log: Log): Promise<DeferredRollouts> {
    const deferred = new DeferredRollouts(files);
    const bytes = await readOrUndefined(files, PATH, MAX_BYTES);
    if (!bytes) return deferred;
    try {
      const { files: byName } = schema.parse(JSON.parse(bytes.toString('utf8')));
      deferred.#byName = new Map(Object.entries(byName).map(([name, text]) => [name, Buffer.from(text)]));
    } catch {
      log.error({ file: PATH }, 'this file is damaged: rollouts that a recovery has paused may go on');
    }
    return deferred;
  }

  get byName(): ReadonlyMap<string, Buffer> {
    return this.#byName;
  }

  /** Replaces them, durably. */
  async keep(byName: ReadonlyMap<string, Buffer>): Promise<void> {
    if (byName.size === 0) return await this.#clear();
    const files = Object.fromEntries([...byName].map(([name, bytes]) => [name, bytes.toString('utf8')]));
    const text = JSON.stringify({ format: 'sitecast-rollouts-to-publish-1', files });
    await this.#files.writeDurably(PATH, Buffer.from(text));
    this.#byName = new Map(byName);
  }

  /** They are published. If the file stays on the disk nevertheless, the next process publishes them again. */
  async #clear(): Promise<void> {
    if (this.#byName.size === 0) return;
    this.#byName = new Map();
    await this.#files.remove(PATH);
  }
}
