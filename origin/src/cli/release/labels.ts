import type { DeltaView } from '@sitecast/shared/api';
import { type DeltaName, manifestTarget, parseReleaseManifest } from '@sitecast/shared/release';
import { targetFileOf } from '@sitecast/shared/signing';
import type { SignedTargets } from '@sitecast/shared/trust';
import type { RepositoryView } from '../origin/repository-view.ts';

/** What people call releases, by product and counter: see `labelOf`. */
export type Labels = ReadonlyMap<string, string>;

interface Release {
  product: string;
  counter: number;
}

const keyOf = ({ product, counter }: Release): string => `${product} ${counter}`;

/** Such as `2.0.0`; `counter 4` where the label isn't known. */
export function labelOf(labels: Labels, product: string, counter: number): string {
  return labels.get(keyOf({ product, counter })) ?? `counter ${counter}`;
}

/** Such as `delta of camera from 1.0.0 to 2.0.0`; `from the release with counter 4`, where its version isn't known. */
export function deltaText({ product, from, to }: DeltaName, labels: Labels): string {
  const named = (counter: number): string =>
    labels.get(keyOf({ product, counter })) ?? `the release with counter ${counter}`;
  return `delta of ${product} from ${named(from)} to ${named(to)}`;
}

/** The labels that an origin tells of deltas of one product. */
export function labelsTold(
  product: string,
  deltas: Iterable<Pick<DeltaView, 'from' | 'to' | 'fromVersion' | 'toVersion'>>,
): Labels {
  const labels = new Map<string, string>();
  for (const { from, to, fromVersion, toVersion } of deltas) {
    if (fromVersion !== undefined) labels.set(keyOf({ product, counter: from }), fromVersion);
    if (toVersion !== undefined) labels.set(keyOf({ product, counter: to }), toVersion);
  }
  return labels;
}

/** Both releases of each delta. */
export const releasesIn = (deltas: Iterable<DeltaName>): Release[] =>
  [...deltas].flatMap(({ product, from, to }) => [
    { product, counter: from },
    { product, counter: to },
  ]);

/**
 * Reads the labels of releases from their manifests, as they are signed or to be signed.
 * @param draft files of a draft; one with other bytes than its targets name tells nothing
 * @param view where the others are; without a network they stay unknown
 */
export async function labelsOf(
  releases: Iterable<Release>,
  draft: { files: ReadonlyMap<string, Buffer>; targets: SignedTargets | undefined },
  view: Pick<RepositoryView, 'file'> | undefined,
): Promise<Labels> {
  const labels = new Map<string, string>();
  for (const release of releases) {
    if (labels.has(keyOf(release))) continue;
    const target = manifestTarget(release.product, release.counter);
    const bytes = drafted(draft, target) ?? (await published(view, target));
    if (bytes) labels.set(keyOf(release), parseReleaseManifest(bytes).version);
  }
  return labels;
}

function drafted(
  { files, targets }: { files: ReadonlyMap<string, Buffer>; targets: SignedTargets | undefined },
  target: string,
): Buffer | undefined {
  const bytes = files.get(target);
  const isNamed = bytes && targets?.targets[target]?.hashes.sha256 === targetFileOf(bytes).hashes.sha256;
  return isNamed === true ? bytes : undefined;
}

async function published(
  view: Pick<RepositoryView, 'file'> | undefined,
  target: string,
): Promise<Buffer | undefined> {
  try {
    return await view?.file(target);
  } catch {
    // There is no network, or the origin has lost it: the counter is shown.
    return undefined;
  }
}
