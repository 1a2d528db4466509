import { parseTargetName } from '@sitecast/shared/release';
import type { Log } from '../log.ts';
import { MAX_TARGET_FILE_BYTES } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type Committed, sha256Hex } from './committed.ts';
import { type PublishedFile, publishedFiles, readRight, setFileAside } from './published-files.ts';

const SPARES = 'spare';
const NAME = /^[0-9a-f]{64}$/;

/**
 * A second copy of each release manifest and product file, which nobody could make anew: they are small, signed, and hold times and
 * notes that no image tells. (An index is cut from the image again; rollouts the origin knows.)
 */
export class Spares {
  readonly #files: Files;
  readonly #log: Log;
  #known: Set<string> | undefined;

  constructor(files: Files, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  /** Copies what is published and has no copy yet. What is damaged or lost is passed over. */
  async keepAll(committed: Committed): Promise<void> {
    for (const file of publishedFiles(committed)) {
      if (!isKept(file) || (await this.#names()).has(file.sha256)) continue;
      const bytes = await readRight(this.#files, file);
      if (bytes) await this.keep(file, bytes);
    }
  }

  /** @param bytes what is published under that name */
  async keep(file: PublishedFile, bytes: Uint8Array): Promise<void> {
    const names = await this.#names();
    if (!isKept(file) || names.has(file.sha256)) return;
    await this.#files.writeDurably(`${SPARES}/${file.sha256}`, bytes);
    names.add(file.sha256);
  }

  /** Puts the copy in the place of a file that is lost or damaged. @returns its bytes; undefined where there's no right copy */
  async restore(file: PublishedFile): Promise<Buffer | undefined> {
    if (!isKept(file)) return undefined;
    const path = `${SPARES}/${file.sha256}`;
    const bytes = await readOrUndefined(this.#files, path, MAX_TARGET_FILE_BYTES);
    if (bytes === undefined || sha256Hex(bytes) !== file.sha256) {
      // It's copied again once the file is back.
      (await this.#names()).delete(file.sha256);
      return undefined;
    }
    await setFileAside(this.#files, file.path);
    await this.#files.writeDurably(file.path, bytes);
    this.#log.warn(
      { file: file.name },
      'a published file was damaged or lost: it was put back from its copy',
    );
    return bytes;
  }

  /** Deletes copies of what is no longer listed. */
  async sweep(committed: Committed): Promise<void> {
    const listed = new Set(publishedFiles(committed).map(({ sha256 }) => sha256));
    const names = await this.#names();
    for (const name of names) {
      if (listed.has(name)) continue;
      await this.#files.remove(`${SPARES}/${name}`);
      names.delete(name);
    }
  }

  async #names(): Promise<Set<string>> {
    if (this.#known) return this.#known;
    const known = new Set<string>();
    for await (const { name } of this.#files.list(SPARES)) if (NAME.test(name)) known.add(name);
    this.#known = known;
    return known;
  }
}

function isKept({ name }: PublishedFile): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind === 'manifest' || kind === 'product';
}
