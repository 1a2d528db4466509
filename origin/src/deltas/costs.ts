import type { UpdateCost, WHY_MORE } from '@sitecast/shared/api';
import type { ChunkIndex } from '@sitecast/shared/content';
import { applicableWith, decodeRecipe, type Recipe, zeroChunks } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaAbility } from '@sitecast/shared/fleet';
import type { Registry } from '../fleet/registry.ts';
import { allDeltas, isSignedOffline } from '../repository/delta-listing.ts';
import { type ListedDelta, type ListedRelease, readListing } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import type { RepositoryStore } from '../repository/repository-store.ts';
import { PublishedImage } from './published-image.ts';
import { type DeviceGroup, type RunningRelease, runningReleases, usesDeltas } from './running.ts';
import { bitsOf, type Need, sitesCost } from './site-costs.ts';

/** How many chunks' frames are measured to estimate how well the missing chunks of a release compress. */
const SAMPLES = 32;
/** Releases whose costs are computed: those that most devices run. */
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

type OtherCost = NonNullable<UpdateCost['from'][number]['others']>[number];

/** What a device fetches, how, and (`why`) what keeps it from fetching less. */
interface Way extends Pick<OtherCost, 'why' | 'lacks'> {
  by: 'delta' | 'chunks';
  bytes: number;
  need: Need;
}

/** What an update costs those devices that have the same abilities. */
interface GroupCost extends Way {
  group: DeviceGroup;
}

/** A published delta. */
interface CostedDelta {
  recipe: Recipe;
  recipeBytes: number;
  patchIndexBytes: number;
  /** Operators have signed it with offline keys. */
  isTopLevel: boolean;
}

/**
 * What an update to a release costs: a device from each release that is running, and each site. Where a delta is published, its bytes are
 * known; otherwise they are estimated from the chunks that the running release lacks. What else a device holds isn't known here, so it may
 * fetch less.
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
  const imageBytes = await target.bytesOf(target.lacking(undefined));
  const costs: { from: RunningRelease; groups: GroupCost[] }[] = [];
  const running = runningReleases(product, registry).filter(found => found.counter !== counter);
  for (const from of running.slice(0, MAX_RELEASES)) {
    const lacking = target.lacking(await indexOf(repository, releases?.get(from.counter)));
    const listed = deltas.find(delta => delta.from === from.counter);
    const delta = listed && (await readDelta(repository, listed));
    const ways = new WaysFrom(target, lacking, { delta, chunkBytes: await target.bytesOf(lacking) });
    const groups = [...from.groups.values()].map(group => ({ group, ...ways.of(group.ability) }));
    costs.push({ from, groups });
  }
  const bySite = needsBySite(
    costs.flatMap(({ groups }) => groups),
    running.slice(MAX_RELEASES),
    unknownDevices(product, registry),
  );
  return {
    to: { counter, version },
    imageBytes,
    from: costs.map(({ from, groups }) => costFrom(from, groups)),
    sites: sitesCost(bySite, await target.costs(imageBytes)),
    unknown: [...unknownDevices(product, registry)].length,
  };
}

/**
 * What the devices of each site need.
 * @param rest releases whose costs aren't computed: for their devices, and for those that have not said what they run, the whole image is
 * assumed
 */
function needsBySite(
  groups: readonly GroupCost[],
  rest: readonly RunningRelease[],
  unknown: Iterable<{ site: string | undefined }>,
): Map<string, Set<Need | 'image'>> {
  const bySite = new Map<string, Set<Need | 'image'>>();
  for (const { site = '' } of unknown) needsOf(bySite, site).add('image');
  for (const { group, need } of groups)
    for (const site of group.bySite.keys()) needsOf(bySite, site).add(need);
  for (const group of rest.flatMap(release => [...release.groups.values()]))
    for (const site of group.bySite.keys()) needsOf(bySite, site).add('image');
  return bySite;
}

function needsOf(bySite: Map<string, Set<Need | 'image'>>, site: string): Set<Need | 'image'> {
  const needs = bySite.get(site) ?? new Set();
  bySite.set(site, needs);
  return needs;
}

/** The cheapest way, and the devices that take another one. */
function costFrom(
  { counter, version, devices }: RunningRelease,
  groups: readonly GroupCost[],
): UpdateCost['from'][number] {
  const sums = new Map<string, OtherCost & { by: Way['by'] }>();
  for (const { group, by, bytes, why, lacks } of groups) {
    const key = `${bytes} ${why ?? ''} ${lacks?.join() ?? ''}`;
    const sum = sums.get(key)?.devices ?? 0;
    sums.set(key, { devices: sum + group.devices, by, bytes, ...(why && { why }), ...(lacks && { lacks }) });
  }
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

/** @returns undefined where the recipe is lost: it will be made again */
async function readDelta({ content }: Repository, delta: ListedDelta): Promise<CostedDelta | undefined> {
  const bytes = await content.read(delta.recipe);
  if (!bytes) return undefined;
  const [recipe, recipeBytes] = [decodeRecipe(bytes), bytes.length];
  const patchIndexBytes = delta.patchIndex.lengthBytes;
  return { recipe, recipeBytes, patchIndexBytes, isTopLevel: isSignedOffline(delta) };
}

/** The ways from one release to the target, by what devices can do with deltas. */
class WaysFrom {
  readonly #target: CostedImage;
  /** Numbers of the chunks that the release lacks. */
  readonly #lacking: readonly number[];
  readonly #delta: CostedDelta | undefined;
  readonly #deltaNeed: Need['delta'];
  readonly #byChunks: Way;
  /** By the encoders that a device lacks. */
  readonly #byDelta = new Map<string, Way>();

  constructor(
    target: CostedImage,
    lacking: readonly number[],
    { delta, chunkBytes }: { delta: CostedDelta | undefined; chunkBytes: number },
  ) {
    this.#target = target;
    this.#lacking = lacking;
    this.#delta = delta;
    this.#deltaNeed = delta && { ...delta, windows: delta.recipe.windows };
    const need: Need = {
      bytes: chunkBytes,
      isEstimate: true,
      chunks: bitsOf(target.chunkCount, lacking),
      delta: undefined,
      windows: bitsOf(0, []),
    };
    this.#byChunks = { by: 'chunks', bytes: chunkBytes, need };
  }

  of(ability: DeltaAbility | undefined): Way {
    const delta = this.#delta;
    if (!delta) return this.#byChunks;
    if (!usesDeltas(ability, delta.isTopLevel)) return { ...this.#byChunks, why: whyNone(ability) };
    const lacks = delta.recipe.encoders.filter(name => !ability.encoders.includes(name));
    const known = this.#byDelta.get(lacks.join()) ?? this.#wayBy(delta, lacks);
    this.#byDelta.set(lacks.join(), known);
    return known;
  }

  /** Patches can't be compressed, so their frames are as long as the patches, plus a few bytes per chunk. */
  #wayBy({ recipe, recipeBytes, patchIndexBytes }: CostedDelta, lacks: readonly string[]): Way {
    const { windows, encoders, restFrameBytes } = recipe;
    const has = encoders.filter(name => !lacks.includes(name));
    const isUsable = windows.map(applicableWith(encoders, has));
    let bytes = recipeBytes + restFrameBytes + (isUsable.includes(true) ? patchIndexBytes : 0);
    const made = new Set<number>();
    for (const [at, { firstChunk, chunkCount, patchLength, frameBytes }] of windows.entries()) {
      bytes += isUsable[at] === true ? patchLength : frameBytes;
      if (isUsable[at] !== true) continue;
      for (let chunk = firstChunk; chunk < firstChunk + chunkCount; chunk += 1) made.add(chunk);
    }
    const need: Need = {
      bytes,
      isEstimate: false,
      chunks: bitsOf(
        this.#target.chunkCount,
        this.#lacking.filter(chunk => !made.has(chunk)),
      ),
      delta: this.#deltaNeed,
      windows: bitsOf(
        windows.length,
        isUsable.flatMap((isIt, at) => (isIt ? [at] : [])),
      ),
    };
    const way: Way = { by: 'delta', bytes, need };
    return lacks.length > 0 ? { ...way, why: 'encoders', lacks: [...lacks] } : way;
  }
}

/** Why these devices don't use a delta that exists. */
function whyNone(ability: DeltaAbility | undefined): (typeof WHY_MORE)[number] {
  if (!ability) return 'noDeltas';
  return usesDeltas(ability, true) ? 'signedOnly' : 'otherFormat';
}

/** The target image, and what its chunks cost. */
class CostedImage {
  readonly #image: PublishedImage;
  readonly #release: ListedRelease;
  readonly #isZero: Uint8Array;
  /** Lengths of frames that were measured, by the numbers of their chunks. */
  readonly #frames = new Map<number, number>();

  constructor(image: PublishedImage, release: ListedRelease) {
    this.#image = image;
    this.#release = release;
    this.#isZero = zeroChunks(image.index);
  }

  get chunkCount(): number {
    return this.#image.index.count;
  }

  /** Numbers of the chunks that a device with `base` lacks. A chunk that the image has several times is listed once. */
  lacking(base: ChunkIndex | undefined): number[] {
    const { index } = this.#image;
    const lacking: number[] = [];
    for (let at = 0; at < index.count; at += 1) {
      const id = index.idAt(at);
      if (this.#isZero[at] === 0 && index.find(id) === at && base?.find(id) === undefined) lacking.push(at);
    }
    return lacking;
  }

  /** About how many bytes a device fetches that lacks these chunks: the index, and their frames. */
  async bytesOf(lacking: readonly number[]): Promise<number> {
    const { index } = this.#image;
    const plainBytes = lacking.reduce((sum, at) => sum + index.lengthOf(at), 0);
    return this.#release.index.lengthBytes + Math.round(plainBytes * (await this.#ratio(lacking)));
  }

  /** What sites fetch for this image. */
  async costs(imageBytes: number): Promise<Parameters<typeof sitesCost>[1]> {
    const { index } = this.#image;
    const ratio = await this.#ratio(this.lacking(undefined));
    const frameBytesOf = (chunk: number): number => index.lengthOf(chunk) * ratio;
    const indexBytes = this.#release.index.lengthBytes;
    return { chunkCount: index.count, frameBytesOf, indexBytes, imageBytes };
  }

  /** Bytes of a frame for each plain byte, measured on some of the chunks. */
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

/** @returns undefined where the index isn't published or is lost: then it's assumed that devices fetch the whole image */
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

/** Devices that have not said what they run. */
function* unknownDevices(product: string, registry: Registry): Generator<{ site: string | undefined }> {
  for (const member of registry.members())
    if (member.kind === 'device' && member.product === product && member.revokedAt === undefined)
      if (registry.status(member.id)?.last.booted?.release === undefined) yield member;
}

function notListed(product: string, version: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_RELEASE_UNKNOWN',
    `${product} has no published release ${version}`,
  );
}
