import type { Log } from '../../log.ts';
import {
  type Commit,
  type FileRef,
  type MetadataFile,
  type OpenFile,
  type Referenced,
  type RepositoryStore,
  type Settled,
  type TargetRef,
} from '../../repository/repository-store.ts';
import { maxBytesOf, type Role } from '../../repository/roles.ts';
import type { FileStaging } from '../../staging/ports.ts';
import type { LocalChunks } from './chunks.ts';
import { DiskCommits } from './commit.ts';
import { DeferredRollouts } from './deferred-rollouts.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';
import { fileOf, METADATA, metadataFile, targetFile, TARGETS, TIMESTAMP } from './layout.ts';
import { HotFiles, VerifiedFiles } from './served-files.ts';
import { Spares } from './spares.ts';
import { Superseded } from './superseded.ts';
import { readTarget, setFileAside } from './targets.ts';

/** As `targetFile` names it: its hash, then its name. */
const TARGET_FILE = /^([0-9a-f]{64})\.(.+)$/;

interface DiskRepositoryDeps {
  files: Files;
  chunks: LocalChunks;
  staged: FileStaging;
  now: () => number;
  log: Log;
}

/** The repository as files that any web server may hand out. One process at a time has the data directory. */
export class DiskRepository implements RepositoryStore {
  readonly #files: Files;
  readonly #commits: DiskCommits;
  readonly #spares: Spares;
  readonly #superseded: Superseded;
  readonly #served: HotFiles;
  readonly #deferred: DeferredRollouts;

  private constructor({ files, chunks, staged, now, log }: DiskRepositoryDeps, deferred: DeferredRollouts) {
    this.#files = files;
    this.#commits = new DiskCommits(files, chunks, staged);
    this.#spares = new Spares(files, log);
    this.#superseded = new Superseded(files);
    this.#served = new HotFiles(new VerifiedFiles(files, now), now);
    this.#deferred = deferred;
  }

  static async open(deps: DiskRepositoryDeps): Promise<DiskRepository> {
    return new DiskRepository(deps, await DeferredRollouts.open(deps.files, deps.log));
  }

  timestamp(): Promise<Buffer | undefined> {
    return readOrUndefined(this.#files, TIMESTAMP, maxBytesOf('timestamp'));
  }

  metadata(role: Role, version: number): Promise<Buffer | undefined> {
    return readOrUndefined(this.#files, metadataFile(role, version), maxBytesOf(role));
  }

  async newestVersions(): Promise<ReadonlyMap<string, number>> {
    const newest = new Map<string, number>();
    for await (const { name } of this.#files.list(METADATA)) {
      const [, version, role] = /^([1-9]\d{0,15})\.([a-z]+)\.json$/.exec(name) ?? [];
      if (role !== undefined) newest.set(role, Math.max(newest.get(role) ?? 0, Number(version)));
    }
    return newest;
  }

  commit(commit: Commit): Promise<void> {
    return this.#commits.commit(commit);
  }

  settle(): Promise<Settled> {
    return this.#commits.settle();
  }

  target(file: TargetRef): Promise<Buffer | undefined> {
    return readTarget(this.#files, file);
  }

  restoreTarget(file: TargetRef): Promise<Buffer | undefined> {
    return this.#spares.restore(file);
  }

  keepCopies(files: readonly TargetRef[]): Promise<void> {
    return this.#spares.keepAll(files);
  }

  async repairTarget(file: TargetRef, bytes: Uint8Array): Promise<boolean> {
    if (await readTarget(this.#files, file)) return false;
    await this.#replace(targetFile(file), bytes);
    return true;
  }

  async repairMetadata({ role, version, bytes }: MetadataFile): Promise<boolean> {
    const path = metadataFile(role, version);
    const found = await readOrUndefined(this.#files, path, maxBytesOf(role));
    if (found && Buffer.compare(found, bytes) === 0) return false;
    await this.#replace(path, bytes);
    return true;
  }

  setAside(file: FileRef): Promise<void> {
    return setFileAside(this.#files, fileOf(file));
  }

  open(file: FileRef): Promise<OpenFile | 'missing' | 'damaged'> {
    return this.#served.open(file);
  }

  async *targets(): AsyncGenerator<TargetRef> {
    for (const folder of await this.#files.listDirectories(TARGETS)) {
      for await (const { name } of this.#files.list(`${TARGETS}/${folder}`)) {
        const [, sha256, rest] = TARGET_FILE.exec(name) ?? [];
        if (sha256 !== undefined && rest !== undefined) yield { name: `${folder}/${rest}`, sha256 };
      }
    }
  }

  async prune(referenced: Referenced, nowMs: number): Promise<number> {
    const removed = await this.#superseded.prune(referenced, nowMs);
    await this.#spares.prune(referenced.targets);
    return removed;
  }

  async deferredRollouts(): Promise<ReadonlyMap<string, Buffer>> {
    return this.#deferred.byName;
  }

  deferRollouts(byName: ReadonlyMap<string, Buffer>): Promise<void> {
    return this.#deferred.keep(byName);
  }

  async #replace(path: string, bytes: Uint8Array): Promise<void> {
    await setFileAside(this.#files, path);
    await this.#files.writeDurably(path, bytes);
  }
}
