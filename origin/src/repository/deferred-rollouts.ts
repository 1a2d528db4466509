import { MAX_ROLLOUTS_BYTES } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { Log } from '../log.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';

const PATH = 'rollouts-to-publish.json';
/** Files of 16 products at their own bound: they are far smaller as a rule. */
const MAX_BYTES = 16 * MAX_ROLLOUTS_BYTES;

const schema = z.object({
  format: z.literal('sitecast-rollouts-to-publish-1'),
  /** By target name, as in `rollouts/camera.json`. */
  files: z.record(z.string(), z.string()),
});

/**
 * Rollout files that are decided and can't be signed yet, for want of a key: a recovery pauses rollouts, and the key may have been
 * rotated after the backup. They are published with the next state that can be signed, and count as the rollouts' state until then.
 */
export class DeferredRollouts {
  readonly #files: Files;
  #byName = new Map<string, Buffer>();

  private constructor(files: Files) {
    this.#files = files;
  }

  /** What can't be read is logged, and counts as none. */
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

  /** Keeps them, durably. */
  async keep(byName: ReadonlyMap<string, Buffer>): Promise<void> {
    if (byName.size === 0) return await this.clear();
    const files = Object.fromEntries([...byName].map(([name, bytes]) => [name, bytes.toString('utf8')]));
    const text = JSON.stringify({ format: 'sitecast-rollouts-to-publish-1', files });
    await this.#files.writeDurably(PATH, Buffer.from(text));
    this.#byName = new Map(byName);
  }

  /** They are published. One that stays on the disk nevertheless would be published again by the next process. */
  async clear(): Promise<void> {
    if (this.#byName.size === 0) return;
    this.#byName = new Map();
    await this.#files.remove(PATH);
  }
}
