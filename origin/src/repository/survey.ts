import {
  CHUNK_ID_BYTES,
  chunkIdToHex,
  ChunkIdSet,
  ChunkIndex,
  countIds,
  eachId,
} from '@sitecast/shared/content';
import { parseReleaseManifest } from '@sitecast/shared/release';
import { metadataPath } from '@sitecast/shared/trust';
import { errorFields, type Log } from '../log.ts';
import { type Committed, readRoot } from './committed.ts';
import { isSignedOffline, listedDeltas } from './delta-listing.ts';
import {
  deltaKey,
  type ListedDelta,
  type ListedRelease,
  type PublishedFile,
  publishedFileOf,
  publishedFiles,
  readListing,
} from './listing.ts';
import type { FileRef, PublishedChunks, RepositoryStore } from './repository-store.ts';
import type { Repository } from './repository.ts';

/** How many chunks are looked up at once. */
const LOOKUPS_AT_ONCE = 4096;

const ROOT_NAME = /^[1-9]\d{0,15}\.root\.json$/;

export interface SurveyDeps {
  repository: Repository;
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  /** Publishes the rollouts of a product anew, from what the origin knows of them. */
  republishRollouts: (product: string) => Promise<void>;
  log: Log;
}

/** What a release lacks. */
export interface ReleaseDamage {
  chunks: number;
  files: string[];
}

/**
 * Examines everything published, piece by piece, and notes in `repository.damage` what is damaged or lost. Damaged files are set aside. The
 * origin writes again what it knows: metadata in force, and rollouts.
 */
export class Survey {
  readonly #deps: SurveyDeps;
  /** Bytes of chunks that were read back. */
  readBytes = 0;

  constructor(deps: SurveyDeps) {
    this.#deps = deps;
  }

  /** Reads chunks back. @returns how many bytes that were, and how many chunks were damaged */
  async inspect(ids: Uint8Array): Promise<{ readBytes: number; damaged: number }> {
    const { publishedChunks, repository, log } = this.#deps;
    const { readBytes, damaged } = await publishedChunks.inspect(ids);
    this.readBytes += readBytes;
    const named = [...eachId(damaged)].map(chunkIdToHex);
    repository.damage.foundChunks += named.length;
    if (named.length > 0) log.error({ chunks: named }, 'published chunks are damaged: they are set aside');
    return { readBytes, damaged: named.length };
  }

  /** Looks at a file that was found to be wrong when it was opened. */
  async lookAt(ref: FileRef): Promise<void> {
    const { published, repository } = this.#deps;
    if (ref.kind === 'chunk') {
      await this.inspect(ref.id);
      return;
    }
    if (ref.kind === 'metadata') {
      const isInForce = ref.version === repository.committed?.root.signed.version;
      await (isInForce ? this.repairMetadata() : this.#lookAtRoot(ref.version));
      return;
    }
    const listed = repository.content.listed(ref);
    if (listed) await this.lookAtFile(listed);
    // Nothing refers to it any more, and a damaged file is useless.
    else await published.setAside(ref);
  }

  /** Writes metadata in force anew if the disk has damaged it. If that fails, it is logged. */
  async repairMetadata(): Promise<void> {
    const { repository, log } = this.#deps;
    try {
      const roles = await repository.repairMetadata();
      repository.damage.foundFiles += roles.length;
      if (roles.length > 0) log.error({ roles }, 'metadata was damaged on the disk: it was written anew');
    } catch (error) {
      log.error(errorFields(error), 'damaged metadata could not be written anew');
    }
  }

  /** Looks at the roots that were in force before: clients follow all of them. */
  async lookAtRoots({ root }: Committed): Promise<void> {
    for (let version = 1; version < root.signed.version; version += 1) await this.#lookAtRoot(version);
  }

  /** @returns its bytes, if it's right */
  async lookAtFile(file: PublishedFile): Promise<Buffer | undefined> {
    const { repository } = this.#deps;
    const bytes = await repository.content.read(file);
    if (!bytes && !(await this.#replaceLost(file)))
      await repository.content.noteLost(file.name, { kind: 'target', ...file });
    return bytes;
  }

  /** @returns also how many bytes its files have */
  async lookAtRelease(release: ListedRelease): Promise<ReleaseDamage & { readBytes: number }> {
    const { repository, publishedChunks, log } = this.#deps;
    const { product, counter } = release;
    const files = [release.manifest, release.index];
    const [manifest, indexBytes] = await Promise.all(
      files.map(file => this.lookAtFile(publishedFileOf(file))),
    );
    let lost = 0;
    for (const ids of groupsOf(indexBytes ? distinctIds(indexBytes) : new Uint8Array(), LOOKUPS_AT_ONCE)) {
      const unpublished = await publishedChunks.lacking(ids);
      lost += countIds(unpublished);
      // A directory or an empty file may be in a chunk's place, where it would block a new one.
      await this.inspect(unpublished);
    }
    const version = manifest && parseReleaseManifest(manifest).version;
    if (lost > 0 && !repository.damage.hasRelease(release))
      log.error({ product, version, counter, chunks: lost }, 'a published release lacks chunks');
    repository.damage.noteRelease({ product, counter, version, chunks: lost });
    const lostFiles = files.filter((_file, at) => (at === 0 ? manifest : indexBytes) === undefined);
    const readBytes = (manifest?.length ?? 0) + (indexBytes?.length ?? 0);
    return { chunks: lost, files: lostFiles.map(({ name }) => name), readBytes };
  }

  /**
   * Examines the files of a delta and whether its patches are there. A delta of the origin that is incomplete is removed from the list.
   * Only operators can remove one that they have signed, so for those the missing parts are noted.
   * @returns how many bytes its files have
   */
  async lookAtDelta(delta: ListedDelta): Promise<number> {
    const { publishedChunks } = this.#deps;
    const recipe = await this.lookAtFile(delta.recipe);
    if (!recipe && !isSignedOffline(delta)) return 0;
    const index = await this.lookAtFile(delta.patchIndex);
    const lacking = index ? await publishedChunks.lacking(distinctIds(index)) : new Uint8Array();
    if (isSignedOffline(delta)) await this.#noteLacking(delta, lacking);
    else if (lacking.length > 0) await this.#drop(delta);
    return (recipe?.length ?? 0) + (index?.length ?? 0);
  }

  async #noteLacking({ product, from, to }: ListedDelta, lacking: Uint8Array): Promise<void> {
    const { repository, log } = this.#deps;
    const name = { product, from, to };
    const chunks = countIds(lacking);
    await this.inspect(lacking);
    if (chunks > 0 && !repository.damage.hasDelta(name))
      log.error({ ...name, chunks }, 'a signed delta lacks chunks of its patches');
    repository.damage.noteDelta({ ...name, chunks });
  }

  /** The chunks of a release; none if its index is lost. */
  chunksOf({ index }: ListedRelease): Promise<Uint8Array> {
    return this.chunksIn(publishedFileOf(index));
  }

  /** The chunks that a published index names; none if it is lost. */
  async chunksIn(index: PublishedFile): Promise<Uint8Array> {
    const bytes = await this.lookAtFile(index);
    return bytes ? distinctIds(bytes) : new Uint8Array();
  }

  /** Forgets damage of what isn't published any more. */
  forgetUnlisted(): void {
    const { damage, committed } = this.#deps.repository;
    if (!committed) return;
    const names = new Set(publishedFiles(committed).map(({ name }) => name));
    const { releases, deltas } = readListing(committed.targets.signed);
    damage.keep({
      release: ({ product, counter }) => releases.get(product)?.has(counter) === true,
      delta: delta => deltas.has(deltaKey(delta)),
      file: name => names.has(name) || ROOT_NAME.test(name),
    });
  }

  async #lookAtRoot(version: number): Promise<void> {
    const { published, repository } = this.#deps;
    const name = metadataPath('root', version);
    if (await readRoot(published, version)) repository.damage.noteFile(name, true);
    else await repository.content.noteLost(name, { kind: 'metadata', role: 'root', version });
  }

  /** Replaces a lost file as far as the origin can by itself. @returns false if the file stays lost */
  async #replaceLost(file: PublishedFile): Promise<boolean> {
    if (file.role === 'rollouts') return this.#republish(file);
    if (file.role !== 'deltas') return false;
    const { committed } = this.#deps.repository;
    const isOf = (delta: ListedDelta) =>
      delta.recipe.name === file.name || delta.patchIndex.name === file.name;
    const delta = committed && listedDeltas(committed).find(isOf);
    return delta !== undefined && (await this.#drop(delta));
  }

  /** Removes a delta from the list: devices use chunks until it is made again. @returns false if it can't be removed */
  async #drop(delta: ListedDelta): Promise<boolean> {
    const { repository, log } = this.#deps;
    const fields = { delta: deltaKey(delta) };
    try {
      await repository.changeDeltas({ removed: [delta] });
    } catch (error) {
      log.error({ ...errorFields(error), ...fields }, 'a damaged delta could not be taken out of the list');
      return false;
    }
    repository.damage.foundFiles += 1;
    log.error(fields, 'a delta is damaged: it is no longer listed');
    return true;
  }

  async #republish(file: PublishedFile): Promise<boolean> {
    const { republishRollouts, published, repository, log } = this.#deps;
    const { name } = file;
    await published.setAside({ kind: 'target', ...file });
    try {
      await republishRollouts(name.replace(/^rollouts\/|\.json$/g, ''));
    } catch (error) {
      log.error({ ...errorFields(error), file: name }, 'a damaged rollouts file could not be published anew');
      return false;
    }
    repository.damage.foundFiles += 1;
    log.error({ file: name }, 'a rollouts file was damaged: it was published anew');
    return true;
  }
}

export function* groupsOf(ids: Uint8Array, count: number): Generator<Uint8Array> {
  for (let at = 0; at < ids.length; at += count * CHUNK_ID_BYTES)
    yield ids.subarray(at, at + count * CHUNK_ID_BYTES);
}

/** An index may name a chunk many times. */
function distinctIds(index: Uint8Array): Uint8Array {
  const ids = new ChunkIdSet();
  for (const { id } of ChunkIndex.decode(index).places()) ids.add(id);
  return ids.bytes();
}
