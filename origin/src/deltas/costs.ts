import type { UpdateCost } from '@sitecast/shared/api';
import type { ChunkIndex } from '@sitecast/shared/content';
import { applicableWith, decodeRecipe, type Recipe, zeroChunks } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaAbility } from '@sitecast/shared/fleet';
import type { Registry } from '../fleet/registry.ts';
import { allDeltas } from '../repository/delta-listing.ts';
import { deltaKey, type ListedDelta, type ListedRelease, readListing } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import type { RepositoryStore } from '../repository/repository-store.ts';
import { PublishedImage } from './published-image.ts';
import { type DeviceGroup, type RunningRelease, runningReleases, usesDeltas } from './running.ts';

/** Chunks whose frames are looked at to estimate how well those compress that a release lacks. */
const SAMPLES = 32;
/** Releases whose costs are told, those that most devices run first. */
const MAX_RELEASES = 50;

interface CostDeps {
  repository: Repository;
  published: Pick<RepositoryStore, 'open'>;
  registry: Registry;
}

/** The release that an update leads to. */
interface CostTarget {
  product: string;
  counter: number;
  version: string;
}

/** What a device fetches, and how. */
interface Way {
  by: 'delta' | 'chunks';
  bytes: number;
}

/** What an update costs the devices that can do the same. */
interface GroupCost extends Way {
  group: DeviceGroup;
}

/**
 * What an update costs a device from each release that runs, and what it costs sites. Where a delta is published, its bytes are known;
 * otherwise they are estimated from the chunks that the running release lacks. What devices hold besides isn't known here, so a device
 * may fetch less.
 */
export async function updateCost(
  { repository, published, registry }: CostDeps,
  { product, counter, version }: CostTarget,
): Promise<UpdateCost> {
  const { committed, content } = repository;
  const listing = committed && readListing(committed.targets.signed);
  const releases = listing?.releases.get(product);
  const release = releases?.get(counter);
  if (!committed || !listing || !release) throw notListed(product, version);
  const target = new CostedImage(await PublishedImage.open({ content, published }, release), release);
  const deltas = allDeltas(committed).filter(delta => delta.product === product && delta.to === counter);
  const imageBytes = await target.bytesWith(undefined);
  const costs: { from: RunningRelease; groups: GroupCost[] }[] = [];
  const running = runningReleases(product, registry).filter(found => found.counter !== counter);
  for (const from of running.slice(0, MAX_RELEASES)) {
    const base = await indexOf(repository, releases?.get(from.counter));
    const chunks: Way = { by: 'chunks', bytes: await target.bytesWith(base) };
    const listed = deltas.find(delta => delta.from === from.counter);
    const delta = listed && (await deltaBytes(repository, listed));
    const isTopLevel = listed !== undefined && listing.deltas.has(deltaKey(listed));
    const groups = [...from.groups.values()].map(group => ({
      group,
      ...wayOf(group.ability, delta && { bytes: delta, isTopLevel }, chunks),
    }));
    costs.push({ from, groups });
  }
  return {
    to: { counter, version },
    imageBytes,
    from: costs.map(({ from, groups }) => costFrom(from, groups)),
    sites: sitesCost(
      costs.flatMap(({ groups }) => groups),
      imageBytes,
    ),
    unknown: countUnknown(product, registry),
  };
}

/** The cheapest way, and the devices for which it is another one. */
function costFrom(
  { counter, version, devices }: RunningRelease,
  groups: readonly GroupCost[],
): UpdateCost['from'][number] {
  const sums = new Map<number, Way & { devices: number }>();
  for (const { group, by, bytes } of groups)
    sums.set(bytes, { by, bytes, devices: (sums.get(bytes)?.devices ?? 0) + group.devices });
  const [cheapest = { by: 'chunks' as const, bytes: 0 }, ...others] = [...sums.values()].sort(
    (one, other) => one.bytes - other.bytes,
  );
  const { by, bytes } = cheapest;
  const isEstimate = by === 'chunks';
  return {
    from: { counter, version },
    devices,
    by,
    bytes,
    isEstimate,
    ...(others.length > 0 && { others }),
  };
}

/** @param delta `isTopLevel`: operators have signed it with offline keys */
function wayOf(
  ability: DeltaAbility | undefined,
  delta: { bytes: DeltaBytes; isTopLevel: boolean } | undefined,
  chunks: Way,
): Way {
  if (!delta || !usesDeltas(ability, delta.isTopLevel)) return chunks;
  return { by: 'delta', bytes: delta.bytes(ability.encoders) };
}

/** Bytes that a device fetches by a delta, by the encoders that it has. */
type DeltaBytes = (encoders: readonly string[]) => number;

/** @returns undefined where the recipe is lost: it is made again */
async function deltaBytes(
  { content }: Repository,
  { recipe: listed, patchIndex }: ListedDelta,
): Promise<DeltaBytes | undefined> {
  const bytes = await content.read(listed);
  if (!bytes) return undefined;
  const recipe = decodeRecipe(bytes);
  return encoders => bytes.length + bytesBy(recipe, patchIndex.lengthBytes, encoders);
}

/** Frames of patches are as long as the patches, which can't be compressed, but for some bytes a chunk. */
function bytesBy(
  { windows, encoders: needed, restFrameBytes }: Recipe,
  patchIndexBytes: number,
  encoders: readonly string[],
): number {
  const canApply = applicableWith(needed, encoders);
  let bytes = restFrameBytes;
  for (const window of windows) bytes += canApply(window) ? window.patchLength : window.frameBytes;
  return bytes + (windows.some(canApply) ? patchIndexBytes : 0);
}

/** Each plan crosses a site's WAN once; where the plans together are larger than the image, that is what is fetched. */
function sitesCost(groups: readonly GroupCost[], imageBytes: number): UpdateCost['sites'] {
  const bySite = new Map<string, number>();
  for (const { bytes, group } of groups)
    for (const site of group.bySite.keys()) bySite.set(site, (bySite.get(site) ?? 0) + bytes);
  const all = [...bySite.values()].map(bytes => Math.min(bytes, imageBytes));
  return {
    count: all.length,
    mostBytes: all.reduce((most, bytes) => Math.max(most, bytes), 0),
    allBytes: all.reduce((sum, bytes) => sum + bytes, 0),
    isEstimate: groups.some(({ by }) => by === 'chunks'),
  };
}

/** An image that is updated to by chunks. */
class CostedImage {
  readonly #image: PublishedImage;
  readonly #release: ListedRelease;
  readonly #isZero: Uint8Array;
  /** Lengths of frames that were looked at, by the numbers of their chunks. */
  readonly #frames = new Map<number, number>();

  constructor(image: PublishedImage, release: ListedRelease) {
    this.#image = image;
    this.#release = release;
    this.#isZero = zeroChunks(image.index);
  }

  /** About what a device fetches that holds `base`: the index, and the frames of the chunks that it lacks. */
  async bytesWith(base: ChunkIndex | undefined): Promise<number> {
    const { index } = this.#image;
    const lacking: number[] = [];
    for (let at = 0; at < index.count; at += 1) {
      const id = index.idAt(at);
      if (this.#isZero[at] === 0 && index.find(id) === at && base?.find(id) === undefined) lacking.push(at);
    }
    const plainBytes = lacking.reduce((sum, at) => sum + index.lengthOf(at), 0);
    return this.#release.index.lengthBytes + Math.round(plainBytes * (await this.#ratio(lacking)));
  }

  /** Bytes of frames for each plain byte, by some of the chunks. */
  async #ratio(chunks: readonly number[]): Promise<number> {
    const step = Math.max(1, chunks.length / SAMPLES);
    let [plain, frames] = [0, 0];
    for (let place = 0; place < chunks.length; place += step) {
      const at = chunks[Math.floor(place)] ?? 0;
      const bytes = this.#frames.get(at) ?? (await this.#image.frameBytes(at));
      this.#frames.set(at, bytes);
      plain += this.#image.index.lengthOf(at);
      frames += bytes;
    }
    return plain === 0 ? 1 : frames / plain;
  }
}

/** @returns undefined where it isn't published, or lost: its devices fetch the whole image, as far as this origin can tell */
async function indexOf(
  { content }: Repository,
  release: ListedRelease | undefined,
): Promise<ChunkIndex | undefined> {
  if (!release) return undefined;
  try {
    return (await PublishedImage.open({ content, published: NOTHING }, release)).index;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

const NOTHING: Pick<RepositoryStore, 'open'> = { open: async () => 'missing' };

function countUnknown(product: string, registry: Registry): number {
  let count = 0;
  for (const { id, kind, product: of, revokedAt } of registry.members())
    if (kind === 'device' && of === product && revokedAt === undefined)
      count += Number(registry.status(id)?.last.booted?.release === undefined);
  return count;
}

function notListed(product: string, version: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no published release ${version}`,
  );
}
