import { createHash } from 'node:crypto';
import { ByteBudget } from '@sitecast/shared/bounded';
import { ChunkIndex, type ChunkStore, chunkIdToHex } from '@sitecast/shared/content';
import { MAX_PATCH_INDEX_BYTES, MAX_RECIPE_BYTES } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import { type RoleTarget, roleTargets, targetPath } from '@sitecast/shared/trust';
import { errorFields, type Log } from '../log.ts';
import { MAX_LISTED_DELTAS } from '../repository/delta-change.ts';
import { listedDeltas } from '../repository/delta-listing.ts';
import { type ListedDelta, readListing } from '../repository/listing.ts';
import { MAX_TARGET_FILE_BYTES } from '../repository/repository-store.ts';
import type { Repository } from '../repository/repository.ts';
import type { ChunkStaging, FileStaging } from '../staging/ports.ts';
import { chunksOf, stageChunks } from './chunks-from-mirrors.ts';
import { inOrder, type Mirror, type MirrorCopy } from './mirror-copy.ts';
import { fetchTarget } from './restore.ts';

// Sender: what `targets` lists is signed by operators. What `deltas` lists may be by a thief of its key, who may answer as a mirror,
// too. The worst: names by the thousand, and indexes of junk, that fill the staging and the disk. So what operators have signed comes
// first, and deltas have bounds of their own.

/** Recipes and patch indexes that a recovery stages, together. */
const MAX_DELTA_FILES_BYTES = 1024 * 1024 * 1024;
/** Chunks of patches that it stages, together. */
const MAX_DELTA_CHUNKS_BYTES = 4 * 1024 * 1024 * 1024;
/** What a chunk takes on the disk, however short it is. */
const LEAST_CHUNK_BYTES = 4096;

/** Names of `deltas` that a recovery has left out. */
export interface LeftOut {
  /** `noDelta`: no recipe or patch index between two listed releases. `tooMuch`: beyond the bounds. `noRoom`: nothing more could be staged. */
  why: 'noDelta' | 'tooMuch' | 'noRoom';
  count: number;
  /** The name of the first. */
  first: string;
}

interface StageDeps {
  repository: Pick<Repository, 'committed'>;
  staged: FileStaging;
  chunks: ChunkStaging;
  log: Log;
}

/**
 * Stages what was signed since the backup, as a publication would have done: what the operators have signed, files before chunks; then
 * the origin's own deltas, which can be made again.
 * @returns which names of `deltas` are left out
 * @throws SITECAST_STAGING_FULL, SITECAST_NO_SPACE (noSpace) for what operators have signed
 */
export async function stageCopy(
  deps: StageDeps,
  copy: MirrorCopy,
  mirrors: readonly Mirror[],
): Promise<LeftOut[]> {
  const all = inOrder(copy, mirrors);
  const work = new Staging(deps, all, chunksOf(all));
  await work.signedByOperators(roleTargets('targets', copy.targets.signed.targets).listed);
  return await work.deltas(copy);
}

class Staging {
  readonly #deps: StageDeps;
  readonly #mirrors: readonly Mirror[];
  readonly #store: ChunkStore;
  readonly #own: Readonly<Record<string, { hashes: { sha256?: string | undefined } }>>;

  constructor(deps: StageDeps, mirrors: readonly Mirror[], store: ChunkStore) {
    this.#deps = deps;
    this.#mirrors = mirrors;
    this.#store = store;
    const { committed } = deps.repository;
    this.#own = { ...committed?.deltas.signed.targets, ...committed?.targets.signed.targets };
  }

  async signedByOperators(listed: readonly RoleTarget[]): Promise<void> {
    const fetched: { name: string; sha256: string }[] = [];
    for (const { name, sha256, file } of listed)
      if (await this.#file({ name, sha256, lengthBytes: file.length })) fetched.push({ name, sha256 });
    // The chunks of releases before those of patches.
    for (const kind of ['index', 'patchIndex'] as const) {
      for (const { name, sha256 } of fetched) {
        if (parseTargetName(name)?.kind !== kind) continue;
        const bytes = await this.#deps.staged.read(sha256);
        const index = bytes && this.#indexIn(bytes, name);
        if (index) await this.#chunks(index);
      }
    }
  }

  async deltas(copy: MirrorCopy): Promise<LeftOut[]> {
    const leftOut = new LeftOutNames();
    const { releases } = readListing(copy.targets.signed);
    const isListed = ({ product, from, to }: ListedDelta): boolean =>
      releases.get(product)?.has(from) === true && releases.get(product)?.has(to) === true;
    const deltas = listedDeltas(copy).filter(isListed);
    const names = new Set(deltas.flatMap(namesOf));
    for (const { name } of roleTargets('deltas', copy.deltas.signed.targets).listed)
      if (!names.has(name)) leftOut.add('noDelta', [name]);
    const room = {
      files: new ByteBudget(MAX_DELTA_FILES_BYTES),
      chunks: new ByteBudget(MAX_DELTA_CHUNKS_BYTES),
    };
    for (const [at, delta] of deltas.entries()) {
      try {
        const fits = at < MAX_LISTED_DELTAS && (await this.#delta(delta, room));
        if (!fits) leftOut.add('tooMuch', namesOf(delta));
      } catch (error) {
        if (!(error instanceof SitecastError) || error.kind !== 'noSpace') throw error;
        this.#deps.log.warn(errorFields(error), 'no more deltas are staged');
        leftOut.add('noRoom', deltas.slice(at).flatMap(namesOf));
        break;
      }
    }
    return leftOut.all();
  }

  /** @returns false if it is too large */
  async #delta(
    { recipe, patchIndex }: ListedDelta,
    room: { files: ByteBudget; chunks: ByteBudget },
  ): Promise<boolean> {
    if (recipe.lengthBytes > MAX_RECIPE_BYTES || patchIndex.lengthBytes > MAX_PATCH_INDEX_BYTES) return false;
    if (!room.files.tryTake(recipe.lengthBytes + patchIndex.lengthBytes)) return false;
    await this.#file(recipe);
    const bytes = await this.#file(patchIndex);
    const index = bytes && this.#indexIn(bytes, patchIndex.name);
    if (!index) return true;
    const lengths = new Map<string, number>();
    for (const { id, lengthBytes } of index.places()) lengths.set(chunkIdToHex(id), lengthBytes);
    let chunksBytes = 0;
    for (const lengthBytes of lengths.values()) chunksBytes += Math.max(LEAST_CHUNK_BYTES, lengthBytes);
    if (!room.chunks.tryTake(chunksBytes)) return false;
    await this.#chunks(index, lengths);
    return true;
  }

  /** @returns the file if the backup lacks it and a mirror has it. `adopt` reports what no mirror has */
  async #file({
    name,
    sha256,
    lengthBytes,
  }: {
    name: string;
    sha256: string;
    lengthBytes: number;
  }): Promise<Uint8Array | undefined> {
    const { staged, log } = this.#deps;
    if (this.#own[name]?.hashes.sha256 === sha256 || lengthBytes > MAX_TARGET_FILE_BYTES) return undefined;
    log.info({ file: name, lengthBytes }, 'fetching what the backup lacks');
    const bytes = await fetchTarget(this.#mirrors, targetPath(name, sha256), { sha256, lengthBytes });
    if (bytes) await stageFile(staged, bytes);
    return bytes;
  }

  /** Nobody has checked what the role of deltas lists: `adopt` leaves out what is no delta. */
  #indexIn(bytes: Uint8Array, name: string): ChunkIndex | undefined {
    try {
      return ChunkIndex.decode(bytes);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      this.#deps.log.warn({ ...errorFields(error), file: name }, 'an index that is signed is none');
      return undefined;
    }
  }

  async #chunks(index: ChunkIndex, lengths?: ReadonlyMap<string, number>): Promise<void> {
    const ids = Array.from(index.places(), ({ id }) => id);
    const from = { store: this.#store, lengths };
    if (ids.length > 0) await stageChunks(this.#deps.chunks, Buffer.concat(ids), from);
  }
}

class LeftOutNames {
  readonly #byWhy = new Map<LeftOut['why'], LeftOut>();

  add(why: LeftOut['why'], names: readonly string[]): void {
    const [first] = names;
    if (first === undefined) return;
    const known = this.#byWhy.get(why) ?? { why, count: 0, first };
    this.#byWhy.set(why, { ...known, count: known.count + names.length });
  }

  all(): LeftOut[] {
    return [...this.#byWhy.values()];
  }
}

const namesOf = ({ recipe, patchIndex }: ListedDelta): string[] => [recipe.name, patchIndex.name];

async function stageFile(staged: FileStaging, bytes: Uint8Array): Promise<void> {
  const receiver = await staged.receive(createHash('sha256').update(bytes).digest('hex'));
  try {
    await receiver.write(bytes);
    await receiver.finish();
  } finally {
    await receiver.discard();
  }
}
