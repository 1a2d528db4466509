import {
  type DeltaName,
  manifestTarget,
  parseTargetName,
  patchIndexTarget,
  recipeTarget,
} from '@sitecast/shared/release';
import type { SignedTargets } from '@sitecast/shared/trust';
import type { OriginClient } from '../origin/client.ts';
import { note } from '../output.ts';
import { fetchDeltas } from './deltas-api.ts';
import { deltaText, labelsTold } from './labels.ts';

/** The deltas of a product that targets list: operators have signed them. */
export function signedDeltasIn({ targets }: SignedTargets, product: string): DeltaName[] {
  return Object.keys(targets).flatMap(target => {
    const name = parseTargetName(target);
    return name?.kind === 'recipe' && name.product === product ? [name] : [];
  });
}

/** The deltas that only one of two lists of targets has, or that they list with different bytes. */
export function deltasBetween(before: SignedTargets, after: SignedTargets): DeltaName[] {
  const hashIn = ({ targets }: SignedTargets, name: string) => targets[name]?.hashes.sha256;
  const names = new Set([...Object.keys(before.targets), ...Object.keys(after.targets)]);
  return [...names].flatMap(target => {
    const name = parseTargetName(target);
    if (name?.kind !== 'recipe' || hashIn(before, target) === hashIn(after, target)) return [];
    return [name];
  });
}

/** Takes deltas out of a list of targets. */
export function removeDeltas({ targets }: SignedTargets, deltas: Iterable<DeltaName>): void {
  for (const delta of deltas) {
    delete targets[recipeTarget(delta)];
    delete targets[patchIndexTarget(delta)];
  }
}

/**
 * Takes the deltas of a product out of its next targets that nobody needs any more: those of releases that were withdrawn, and those of
 * which the origin says that their rollouts are over. Whoever signs is shown it. An origin that is wrong about it costs devices bytes.
 */
export async function removeUseless(
  origin: OriginClient,
  targets: SignedTargets,
  product: string,
): Promise<void> {
  const listed = signedDeltasIn(targets, product);
  if (listed.length === 0) return;
  const { deltas = [] } = (await fetchDeltas(origin, product)) ?? {};
  const over = new Set(deltas.filter(delta => delta.over === true).map(({ from, to }) => `${from} ${to}`));
  const isThere = (counter: number) => Object.hasOwn(targets.targets, manifestTarget(product, counter));
  const useless = listed.filter(
    ({ from, to }) => over.has(`${from} ${to}`) || !isThere(from) || !isThere(to),
  );
  removeDeltas(targets, useless);
  const labels = labelsTold(product, deltas);
  for (const delta of useless) note(`leaves out the ${deltaText(delta, labels)}: nobody needs it any more`);
}
