import { targetPath } from '@sitecast/shared/trust';
import { errorFields, type Log } from '../log.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { type Committed, damaged, sha256Hex } from './committed.ts';
import { DamageBook } from './damage.ts';
import { type PublishedFile, publishedFiles, targetKey } from './listing.ts';
import { repairChunks, repairFiles } from './repair.ts';
import type { FileRef, PublishedChunks, RepositoryStore, TargetRef } from './repository-store.ts';

interface PublishedContentDeps {
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
  staged: FileStaging;
  log: Log;
}

/** Reads and repairs published target files and chunks, and knows which of them are damaged. */
export class PublishedContent {
  /** Files and chunks that differ from what was published. */
  readonly damage = new DamageBook();
  readonly #deps: PublishedContentDeps;
  readonly #committed: () => Committed | undefined;
  /** A lost file is restored once, however many readers wait for it. */
  readonly #restoring = new Map<string, Promise<Buffer | undefined>>();
  #listed: { of: Committed; files: ReadonlyMap<string, PublishedFile> } | undefined;

  /** @param committed what is in force */
  constructor(deps: PublishedContentDeps, committed: () => Committed | undefined) {
    this.#deps = deps;
    this.#committed = committed;
  }

  /** A target file that the metadata in force lists. */
  listed(ref: TargetRef): PublishedFile | undefined {
    const committed = this.#committed();
    if (!committed) return undefined;
    if (this.#listed?.of !== committed) {
      const files = new Map(publishedFiles(committed).map(file => [targetKey(file), file]));
      this.#listed = { of: committed, files };
    }
    return this.#listed.files.get(targetKey(ref));
  }

  /**
   * Reads a file from its place, or else its copy, which is then put in that place. A damaged file is set aside, and noted.
   * @returns undefined if it is lost
   */
  async read(file: PublishedFile): Promise<Buffer | undefined> {
    const { published, log } = this.#deps;
    const found = await published.target(file);
    // A file is read even if the disk is full or read-only.
    const notKept = (error: unknown) =>
      log.warn({ ...errorFields(error), file: file.name }, 'no copy could be kept');
    if (found) await published.keepCopies([file]).catch(notKept);
    const bytes = found ?? (await this.#restore(file));
    if (bytes) this.damage.noteFile(file.name, true);
    // The origin writes rollouts again, and notes there whether that succeeds.
    else if (file.role === 'targets') await this.noteLost(file.name, { kind: 'target', ...file });
    return bytes;
  }

  /**
   * Reads a published file of rollouts. If it is lost, it is written again from the candidate that has its hash.
   * @throws SITECAST_REPOSITORY_DAMAGED (failed) if no candidate has it
   */
  async readRollouts(file: TargetRef, candidates: () => Iterable<Buffer>): Promise<Buffer> {
    const { published } = this.#deps;
    const bytes = await published.target(file);
    if (bytes) return bytes;
    for (const candidate of candidates()) {
      if (sha256Hex(candidate) !== file.sha256) continue;
      await published.repairTarget(file, candidate);
      return candidate;
    }
    throw damaged(`${targetPath(file.name, file.sha256)} is missing or was altered`);
  }

  /** Notes that a file is lost. A file in its place is set aside. */
  async noteLost(name: string, ref: FileRef): Promise<void> {
    await this.#deps.published.setAside(ref);
    if (this.damage.hasFile(name)) return;
    this.damage.noteFile(name, false);
    this.damage.foundFiles += 1;
    this.#deps.log.error({ file: name }, 'a published file is damaged or lost');
  }

  /** To be called after a commit. If the disk takes no copies, that is logged, and the survey tries again within a day. */
  async keepCopies(committed: Committed): Promise<void> {
    try {
      await this.#deps.published.keepCopies(publishedFiles(committed));
    } catch (error) {
      this.#deps.log.warn(errorFields(error), 'published files have no copies yet');
    }
  }

  /** As `Repository.repair`. */
  async repair(committed: Committed): Promise<{ chunks: number; files: string[] }> {
    const deps = { ...this.#deps, readPublished: (file: PublishedFile) => this.read(file) };
    const files = await repairFiles(deps, committed);
    const repaired = { files, chunks: await repairChunks(deps, committed) };
    if (repaired.chunks > 0 || files.length > 0)
      this.#deps.log.info(repaired, 'lost chunks and files are back');
    return repaired;
  }

  async #restore(file: PublishedFile): Promise<Buffer | undefined> {
    const key = targetKey(file);
    const underWay = this.#restoring.get(key);
    if (underWay) return await underWay;
    const restoring = this.#deps.published.restoreTarget(file).finally(() => this.#restoring.delete(key));
    this.#restoring.set(key, restoring);
    const bytes = await restoring;
    if (bytes) this.damage.foundFiles += 1;
    return bytes;
  }
}
