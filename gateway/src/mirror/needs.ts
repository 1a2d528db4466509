import { SitecastError } from '@sitecast/shared/errors';
import { MAX_ROLLOUTS_BYTES, parseRollouts, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import { indexTarget, MAX_PRODUCT_BYTES, manifestTarget, parseTargetName } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';

/** Bound of the indexes that are fetched before a device asks for them, together. */
const MAX_EAGER_INDEX_BYTES = 256 * 1024 * 1024;

const ROLLOUTS_TARGET = /^rollouts\/(.{1,64})\.json$/;

type Targets = ReadonlyMap<string, FoundTarget>;

/** The files that a device reads first, of every product: product file and rollouts. */
export function firstNeeds(targets: Targets): FoundTarget[] {
  return [...targets.values()].filter(({ name, file }) => {
    if (parseTargetName(name)?.kind === 'product') return file.length <= MAX_PRODUCT_BYTES;
    return ROLLOUTS_TARGET.test(name) && file.length <= MAX_ROLLOUTS_BYTES;
  });
}

/** The rollouts of each product; `read` gives a file's bytes, or undefined. */
export async function readRollouts(
  targets: Targets,
  read: (target: FoundTarget) => Promise<Uint8Array | undefined>,
): Promise<Map<string, RolloutsFile>> {
  const rollouts = new Map<string, RolloutsFile>();
  for (const target of targets.values()) {
    const product = ROLLOUTS_TARGET.exec(target.name)?.[1];
    const bytes = product === undefined ? undefined : await read(target);
    const file = bytes && parseOrUndefined(bytes);
    if (product !== undefined && file?.product === product) rollouts.set(product, file);
  }
  return rollouts;
}

function parseOrUndefined(bytes: Uint8Array): RolloutsFile | undefined {
  try {
    return parseRollouts(bytes);
  } catch (error) {
    // A later format: it is served as it is, and the files that it names are fetched when a device asks.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** Manifests and indexes of the releases that rollouts name. */
export function rolloutNeeds(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  const byName = new Map([...targets.values()].map(target => [target.name, target]));
  const needs = new Map<string, FoundTarget>();
  let indexBytes = 0;
  for (const file of rollouts.values()) {
    // The newest come first. Where there are too many, the oldest wait until a device asks.
    for (const { counter } of [...file.rollouts].reverse().flatMap(releasesOf)) {
      const manifest = byName.get(manifestTarget(file.product, counter));
      if (manifest) needs.set(manifest.name, manifest);
      const index = byName.get(indexTarget(file.product, counter));
      if (!index || needs.has(index.name) || indexBytes + index.file.length > MAX_EAGER_INDEX_BYTES) continue;
      indexBytes += index.file.length;
      needs.set(index.name, index);
    }
  }
  return [...needs.values()];
}

/** The indexes of the releases that devices are being updated to: their chunks must stay in the cache. */
export function pinnedIndexes(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  const names = new Set<string>();
  for (const { product, rollouts: list } of rollouts.values()) {
    for (const rollout of list) {
      if (rollout.state === 'completed') continue;
      for (const { counter } of releasesOf(rollout)) names.add(indexTarget(product, counter));
    }
  }
  return [...targets.values()].filter(({ name }) => names.has(name));
}

function releasesOf({ state, release, rollbackTo }: Rollout): { counter: number }[] {
  if (state === 'aborted') return [];
  return rollbackTo ? [release, rollbackTo] : [release];
}
