import { parseTargetName } from '@sitecast/shared/release';
import type { Log } from '../../log.ts';
import { sha256Hex } from '../../repository/committed.ts';
import { MAX_TARGET_FILE_BYTES, type TargetRef } from '../../repository/repository-store.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';
import { SPARES, targetFile } from './layout.ts';
import { readTarget, setFileAside } from './targets.ts';

const NAME = /^[0-9a-f]{64}$/;

/**
 * Second copies of the release manifests and product files, which can't be made anew: they are small, signed, and hold times and
 * notes that no image tells. (An index can be cut from the image again; the origin knows what is in the rollouts.)
 */
export class Spares {
  readonly #files: Files;
  readonly #log: Log;
  #known: Set<string> | undefined;

  constructor(files: Files, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  /** Copies the files that have no copy yet. Damaged and lost ones are passed over. */
  async keepAll(listed: readonly TargetRef[]): Promise<void> {
    for (const file of listed) {
      if (!isKept(file) || (await this.#names()).has(file.sha256)) continue;
      const bytes = await readTarget(this.#files, file);
      if (bytes) await this.keep(file, bytes);
    }
  }

  /** @param bytes the file's */
  async keep(file: TargetRef, bytes: Uint8Array): Promise<void> {
    const names = await this.#names();
    if (!isKept(file) || names.has(file.sha256)) return;
    await this.#files.writeDurably(`${SPARES}/${file.sha256}`, bytes);
    names.add(file.sha256);
  }

  /** Puts the copy in the place of a file that is lost or damaged. @returns its bytes; undefined if there is no right copy */
  async restore(file: TargetRef): Promise<Buffer | undefined> {
    if (!isKept(file)) return undefined;
    const path = `${SPARES}/${file.sha256}`;
    const bytes = await readOrUndefined(this.#files, path, MAX_TARGET_FILE_BYTES);
    if (bytes === undefined || sha256Hex(bytes) !== file.sha256) {
      // The file is copied again once it is back.
      (await this.#names()).delete(file.sha256);
      return undefined;
    }
    await setFileAside(this.#files, targetFile(file));
    await this.#files.writeDurably(targetFile(file), bytes);
    this.#log.warn(
      { file: file.name },
      'a published file was damaged or lost: it was put back from its copy',
    );
    return bytes;
  }

  /** Deletes copies of files that are no longer listed. */
  async prune(listed: readonly TargetRef[]): Promise<void> {
    const wanted = new Set(listed.map(({ sha256 }) => sha256));
    const names = await this.#names();
    for (const name of names) {
      if (wanted.has(name)) continue;
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

function isKept({ name }: TargetRef): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind === 'manifest' || kind === 'product';
}
