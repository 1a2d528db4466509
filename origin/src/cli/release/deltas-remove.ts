import { SitecastError } from '@sitecast/shared/errors';
import type { DeltaName } from '@sitecast/shared/release';
import { nextVersion } from '@sitecast/shared/signing';
import { newDraft } from '../draft/draft.ts';
import { type FinishOptions, signAndSubmit } from '../draft/sign-and-submit.ts';
import { openRepository } from '../origin/repository-view.ts';
import { print, printJson } from '../output.ts';
import { connect, type OriginOptions, type TrustOptions } from '../settings.ts';
import { findRelease, readKnownProduct } from './releases.ts';
import { removeDeltas, signedDeltasIn } from './signed-list.ts';

interface RemoveOptions extends OriginOptions, TrustOptions, FinishOptions {
  /** Versions that the deltas lead from; undefined: from any. */
  from?: string[];
}

/**
 * Takes deltas to a release out of the list that operators have signed, or drafts that. The origin can't do it: it has no release key.
 * @throws SITECAST_RELEASE_UNKNOWN, SITECAST_DELTA_UNKNOWN (notFound)
 */
export async function removeSigned(product: string, version: string, options: RemoveOptions): Promise<void> {
  const origin = await connect(options);
  const view = await openRepository(options, origin);
  const published = await readKnownProduct(view, product);
  const { counter } = findRelease(published, version);
  const bases = options.from?.map(from => findRelease(published, from).counter);
  const removed = signedDeltasIn(view.targets, product).filter(
    ({ from, to }) => to === counter && bases?.includes(from) !== false,
  );
  if (removed.length === 0) throw unknown(product, version);
  const targets = nextVersion(view.targets, Date.now());
  removeDeltas(targets, removed);
  const draft = newDraft(`remove deltas to ${product} ${version}`, { targets });
  if (!(await signAndSubmit(draft, view.root, origin, options))) return;
  const names: DeltaName[] = removed.map(({ from, to }) => ({ product, from, to }));
  if (options.json) printJson({ removed: names });
  else print(names.map(({ from }) => `removed the delta from the counter ${from} to ${product} ${version}`));
}

function unknown(product: string, version: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_DELTA_UNKNOWN',
    `release keys have signed no such delta to ${product} ${version}`,
    { hint: `sitecast release deltas ${product} ${version} lists those that there are` },
  );
}
