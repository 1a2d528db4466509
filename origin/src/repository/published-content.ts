import { errorFields, type Log } from '../log.ts';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { MAX_ROLLOUTS_BYTES } from '@sitecast/shared/fleet';
import { targetPath } from '@sitecast/shared/trust';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type Committed, damaged, sha256Hex, TARGETS } from './committed.ts';
import { DamageBook } from './damage.ts';
import { mendChunks, mendFiles } from './mending.ts';
import { type PublishedFile, publishedFiles, readRight, setFileAside } from './published-files.ts';
import { Spares } from './spares.ts';

interface PublishedContentDeps {
  files: Files;
  chunks: Chunks;
  staged: StagedFiles;
  log: Log;
}

/** The target files and chunks that are published, what is known to be damaged of them, and the copies that they are put back from. */
export class PublishedContent {
  /** What isn't as it was published any more. */
  readonly damage = new DamageBook();
  readonly #deps: PublishedContentDeps;
  readonly #committed: () => Committed | undefined;
  readonly #spares: Spares;
  readonly #restoring = new Map<string, Promise<Buffer | undefined>>();
  /** Target files by their paths. */
  #listed: { of: Committed; files: ReadonlyMap<string, PublishedFile> } | undefined;

  /** @param committed what is in force */
  constructor(deps: PublishedContentDeps, committed: () => Committed | undefined) {
    this.#deps = deps;
    this.#committed = committed;
    this.#spares = new Spares(deps.files, deps.log);
  }

  /** A target file that the metadata in force lists, by its path within the data directory. */
  listed(path: string): PublishedFile | undefined {
    const committed = this.#committed();
    if (!committed) return undefined;
    if (this.#listed?.of !== committed) {
      const files = new Map(publishedFiles(committed).map(file => [file.path, file]));
      this.#listed = { of: committed, files };
    }
    return this.#listed.files.get(path);
  }

  /**
   * Reads a file from its place, or from its copy, which is put in its place. What is damaged is set aside, and noted.
   * @returns undefined where it's lost
   */
  async read(file: PublishedFile): Promise<Buffer | undefined> {
    const { files, log } = this.#deps;
    const found = await readRight(files, file);
    // A disk that is full, or read-only, doesn't keep it from being read.
    const notKept = (error: unknown) =>
      log.warn({ ...errorFields(error), file: file.name }, 'no copy could be kept');
    if (found) await this.#spares.keep(file, found).catch(notKept);
    const bytes = found ?? (await this.#restore(file));
    if (bytes) this.damage.noteFile(file.name, true);
    // Rollouts the origin writes anew: whether that goes well is seen there.
    else if (file.role === 'targets') await this.noteLost(file.name, file.path);
    return bytes;
  }

  /**
   * Reads a published file of rollouts. If the disk has lost it, it is written again from the candidate that has its hash.
   * @throws SITECAST_REPOSITORY_DAMAGED (failed) if no candidate has it
   */
  async readRollouts(
    { name, sha256 }: Pick<PublishedFile, 'name' | 'sha256'>,
    candidates: () => Iterable<Buffer>,
  ): Promise<Buffer> {
    const { files } = this.#deps;
    const path = targetPath(name, sha256);
    const bytes = await readOrUndefined(files, `${TARGETS}/${path}`, MAX_ROLLOUTS_BYTES);
    if (bytes && sha256Hex(bytes) === sha256) return bytes;
    for (const candidate of candidates()) {
      if (sha256Hex(candidate) !== sha256) continue;
      await files.writeDurably(`${TARGETS}/${path}`, candidate);
      return candidate;
    }
    throw damaged(`${path} is missing or was altered`);
  }

  /** @param path within the data directory; what is there is set aside */
  async noteLost(name: string, path: string): Promise<void> {
    await setFileAside(this.#deps.files, path);
    if (this.damage.hasFile(name)) return;
    this.damage.noteFile(name, false);
    this.damage.foundFiles += 1;
    this.#deps.log.error({ file: name }, 'a published file is damaged or lost');
  }

  /** To be called after a commit. A disk that takes no copies is told of, and asked again within a day. */
  async keepCopies(committed: Committed): Promise<void> {
    try {
      await this.#spares.keepAll(committed);
    } catch (error) {
      this.#deps.log.warn(errorFields(error), 'published files have no copies yet');
    }
  }

  /** Deletes copies of what is no longer listed. */
  sweepCopies(committed: Committed): Promise<void> {
    return this.#spares.sweep(committed);
  }

  /** As `Repository.mend`. */
  async mend(committed: Committed): Promise<{ chunks: number; files: string[] }> {
    const deps = { ...this.#deps, readPublished: (file: PublishedFile) => this.read(file) };
    const files = await mendFiles(deps, committed);
    const mended = { files, chunks: await mendChunks(deps, committed) };
    if (mended.chunks > 0 || files.length > 0) this.#deps.log.info(mended, 'lost chunks and files are back');
    return mended;
  }

  /** Once, however many ask for it at one time. */
  async #restore(file: PublishedFile): Promise<Buffer | undefined> {
    const underWay = this.#restoring.get(file.path);
    if (underWay) return await underWay;
    const restoring = this.#spares.restore(file).finally(() => this.#restoring.delete(file.path));
    this.#restoring.set(file.path, restoring);
    const bytes = await restoring;
    if (bytes) this.damage.foundFiles += 1;
    return bytes;
  }
}
