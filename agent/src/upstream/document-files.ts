import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory, readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { DEFAULT_TRUST_LIMITS } from '@sitecast/shared/trust';

const MAX_DOCUMENT_BYTES = DEFAULT_TRUST_LIMITS.maxTargetFileBytes;
/** Product file, rollouts file, manifests, indices and recipes that are kept for times when no gateway answers, and for other devices. */
const MAX_DOCUMENTS = 16;
/** The newest of them that are kept, whether they are listed or not. */
const KEPT_ANYWAY = 6;
const SHA256_HEX = /^[0-9a-f]{64}$/;

/** Verified targets in a directory of their own, each under the SHA-256 of its bytes. */
export class DocumentFiles {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(directory: string): Promise<DocumentFiles> {
    await makeDirectory(directory, 0o700);
    return new DocumentFiles(directory);
  }

  /** @returns bytes that the caller has to verify; undefined where they aren't here, or can't be read */
  async read(sha256: string | undefined): Promise<Uint8Array | undefined> {
    if (sha256 === undefined || !SHA256_HEX.test(sha256)) return undefined;
    try {
      return await readFileBounded(join(this.#directory, sha256), MAX_DOCUMENT_BYTES);
    } catch (error) {
      // Not fetched yet, or damaged since. It is fetched again.
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /**
   * Durable; makes room first. Does nothing without a usable digest.
   * @param listed digests of what the repository lists for long. Beside the newest these are kept: else the many versions of a rollouts file
   *   would push out the manifest of what this device runs, which its neighbours may have nobody else to ask for
   */
  async write(sha256: string | undefined, bytes: Uint8Array, listed: ReadonlySet<string>): Promise<void> {
    if (sha256 === undefined || !SHA256_HEX.test(sha256)) return;
    await this.#prune(listed);
    await writeFileDurably(join(this.#directory, sha256), bytes);
  }

  async #prune(listed: ReadonlySet<string>): Promise<void> {
    const found = [];
    for (const name of await readdir(this.#directory)) {
      const path = join(this.#directory, name);
      found.push({ name, path, atMs: name.endsWith('.partial') ? 0 : (await stat(path)).mtimeMs });
    }
    found.sort((one, other) => other.atMs - one.atMs);
    const older = found.splice(KEPT_ANYWAY);
    const isListed = ({ name }: { name: string }): boolean => listed.has(name);
    const inOrder = [...found, ...older.filter(isListed), ...older.filter(file => !isListed(file))];
    for (const { path } of inOrder.slice(MAX_DOCUMENTS - 1)) await rm(path, { force: true });
  }
}
