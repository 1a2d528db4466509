import type { UpdateCost } from '@sitecast/shared/api';
import type { ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { Registry } from '../fleet/registry.ts';
import { type Listing, readListing } from '../repository/listing.ts';
import type { Repository } from '../repository/repository.ts';
import type { RepositoryStore } from '../repository/repository-store.ts';
import type { DeltaJob } from './job.ts';
import { costOf } from './job.ts';
import { PublishedImage } from './published-image.ts';
import { type RunningRelease, runningReleases } from './wanted.ts';

/** Chunks whose frames are looked at to estimate how well an image compresses. */
const SAMPLES = 32;
/** Releases whose costs are told, those that most devices run first. */
const MAX_RELEASES = 50;

interface CostDeps {
  repository: Repository;
  published: Pick<RepositoryStore, 'open'>;
  registry: Registry;
  /** The delta that is made, or was, if there is one. */
  jobOf: (from: number) => DeltaJob | undefined;
}

/** The release that an update leads to. */
interface CostTarget {
  product: string;
  counter: number;
  version: string;
}

/**
 * What an update costs a device from each release that runs, and what it costs sites. Where a delta is published, its bytes are known;
 * otherwise they are estimated from the chunks that the running release lacks. What devices hold besides isn't known here, so a device
 * may fetch less.
 */
export async function updateCost(
  { repository, published, registry, jobOf }: CostDeps,
  { product, counter, version }: CostTarget,
): Promise<UpdateCost> {
  const { committed, content } = repository;
  const listing = committed && readListing(committed.targets.signed);
  const release = listing?.releases.get(product)?.get(counter);
  if (!listing || !release) throw notListed(product, version);
  const target = await PublishedImage.open({ content, published }, release);
  const ratio = await frameRatio(target);
  const imageBytes = Math.round(ratio * target.index.lengthBytes);
  const running = runningReleases(product, registry).filter(found => found.counter !== counter);
  const costs: (UpdateCost['from'][number] & { bySite: RunningRelease['bySite'] })[] = [];
  for (const { bySite, devices, ...from } of running.slice(0, MAX_RELEASES)) {
    const job = jobOf(from.counter);
    const made = job && costOf(job);
    const base = made === undefined ? await indexOf(repository, listing, product, from.counter) : undefined;
    const bytes = made ?? Math.round(ratio * lackingBytes(base, target.index));
    const by = made === undefined ? 'chunks' : 'delta';
    costs.push({ from, devices, by, bytes, isEstimate: made === undefined, bySite });
  }
  return {
    to: { counter, version },
    imageBytes,
    from: costs.map(({ bySite: _bySite, ...cost }) => cost),
    sites: sitesCost(costs, imageBytes),
    unknown: countUnknown(product, registry),
  };
}

/** Each plan crosses a site's WAN once; where the plans together are larger than the image, that is what is fetched. */
function sitesCost(
  costs: readonly { bytes: number; isEstimate: boolean; bySite: RunningRelease['bySite'] }[],
  imageBytes: number,
): UpdateCost['sites'] {
  const bySite = new Map<string, number>();
  for (const { bytes, bySite: devices } of costs)
    for (const site of devices.keys()) bySite.set(site, (bySite.get(site) ?? 0) + bytes);
  const all = [...bySite.values()].map(bytes => Math.min(bytes, imageBytes));
  return {
    count: all.length,
    mostBytes: all.reduce((most, bytes) => Math.max(most, bytes), 0),
    allBytes: all.reduce((sum, bytes) => sum + bytes, 0),
    isEstimate: costs.some(({ isEstimate }) => isEstimate),
  };
}

/** Bytes of frames for each plain byte, by some of the chunks. */
async function frameRatio(image: PublishedImage): Promise<number> {
  const { index } = image;
  const step = Math.max(1, Math.floor(index.count / SAMPLES));
  let [plain, frames] = [0, 0];
  for (let at = 0; at < index.count; at += step) {
    plain += index.lengthOf(at);
    frames += await image.frameBytes(at);
  }
  return plain === 0 ? 1 : frames / plain;
}

/** Plain bytes of the chunks that the base lacks, each counted once. */
function lackingBytes(base: ChunkIndex | undefined, target: ChunkIndex): number {
  let bytes = 0;
  for (let at = 0; at < target.count; at += 1) {
    const id = target.idAt(at);
    if (target.find(id) === at && base?.find(id) === undefined) bytes += target.lengthOf(at);
  }
  return bytes;
}

async function indexOf(
  { content }: Repository,
  listing: Listing,
  product: string,
  counter: number,
): Promise<ChunkIndex | undefined> {
  const release = listing.releases.get(product)?.get(counter);
  if (!release) return undefined;
  try {
    return (await PublishedImage.open({ content, published: NOTHING }, release)).index;
  } catch (error) {
    // Its devices fetch the whole image, as far as this origin can tell.
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
