import { SitecastError } from '@sitecast/shared/errors';
import { nextVersion } from '@sitecast/shared/signing';
import { newDraft } from '../draft/draft.ts';
import { type FinishOptions, signAndSubmit } from '../draft/sign-and-submit.ts';
import type { OriginClient } from '../origin/client.ts';
import { openRepository } from '../origin/repository-view.ts';
import { note, print, printJson } from '../output.ts';
import { connect, type OriginOptions, type TrustOptions } from '../settings.ts';
import { type DeltaList, fetchDeltas, makesNoDeltas, removeMade } from './deltas-api.ts';
import { fromText } from './deltas-view.ts';
import { removeDeltas, signedDeltasIn } from './signed-list.ts';

interface RemoveOptions extends OriginOptions, TrustOptions, FinishOptions {
  /** Versions that the deltas lead from. */
  from?: string[];
  /** From any version. */
  all?: boolean;
}

type Listed = DeltaList['deltas'][number];

/**
 * Removes deltas to a release: those that operators have signed by signing targets without them (or drafting that), those of the origin by
 * asking it, which also ends what is being made.
 * @throws SITECAST_OPTION_MISSING (badInput), SITECAST_DELTA_UNKNOWN (notFound)
 */
export async function removeListed(product: string, version: string, options: RemoveOptions): Promise<void> {
  if (options.from === undefined && options.all !== true) throw noneNamed(product, version);
  const origin = await connect(options);
  const list = await fetchDeltas(origin, product);
  if (!list) throw makesNoDeltas();
  const chosen = choose(list, product, version, options.from);
  const signed = chosen.filter(delta => delta.signed === true);
  const made = chosen.filter(delta => delta.signed !== true);
  // First what keys are needed for: where they are missing, nothing is changed.
  const isDrafted = signed.length > 0 && !(await unsign(origin, product, version, { signed, options }));
  if (made.length > 0) await removeMade(origin, product, version, made);
  const removed = isDrafted ? made : chosen;
  if (options.json !== true) tell(product, version, removed);
  else if (!isDrafted)
    printJson({
      removed: removed.map(({ from, to, fromVersion, toVersion }) => ({
        product,
        from,
        to,
        fromVersion,
        toVersion,
      })),
    });
}

function choose(
  { deltas }: DeltaList,
  product: string,
  version: string,
  from: readonly string[] | undefined,
): Listed[] {
  const there = deltas.filter(({ toVersion, state }) => toVersion === version && state !== 'removed');
  const unknown = from?.find(wanted => !there.some(({ fromVersion }) => fromVersion === wanted));
  if (unknown !== undefined || there.length === 0) {
    const fromWhere = unknown === undefined ? '' : ` from ${unknown}`;
    const known = there.map(fromText).slice(0, 10).join(', ');
    throw new SitecastError(
      'notFound',
      'SITECAST_DELTA_UNKNOWN',
      `there is no delta${fromWhere} to ${product} ${version} to remove`,
      {
        hint:
          known === ''
            ? `sitecast release deltas ${product} lists those that there are`
            : `there are those from ${known}`,
      },
    );
  }
  return there.filter(({ fromVersion }) => from === undefined || from.includes(fromVersion ?? ''));
}

/** @returns false where that is drafted, and published only once others have signed it */
async function unsign(
  origin: OriginClient,
  product: string,
  version: string,
  { signed, options }: { signed: readonly Listed[]; options: RemoveOptions },
): Promise<boolean> {
  const view = await openRepository(options, origin);
  const removed = signedDeltasIn(view.targets, product).filter(({ from, to }) =>
    signed.some(delta => delta.from === from && delta.to === to),
  );
  const targets = nextVersion(view.targets, Date.now());
  removeDeltas(targets, removed);
  const draft = newDraft(`remove deltas to ${product} ${version}`, { targets });
  return (await signAndSubmit(draft, view.root, origin, options)) !== undefined;
}

function tell(product: string, version: string, removed: readonly Listed[]): void {
  const lines = removed.map(delta =>
    removedText(delta, `the delta from ${fromText(delta)} to ${product} ${version}`),
  );
  // The origin may not have ended its own yet since one of the same name was signed.
  print([...new Set(lines)]);
  const example = removed.find(({ signed }) => signed !== true);
  if (!example) return;
  note(
    `a rollout to ${version} that is started later has the origin make again what devices need, unless it runs with --make-deltas asked; at once, with: ` +
      `sitecast release deltas ${product} ${version} --from ${fromText(example)}`,
  );
}

/** @param what such as `the delta from 1.0.0 to camera 2.0.0` */
function removedText({ state }: Listed, what: string): string {
  switch (state) {
    case 'published':
      return `removed ${what}: devices that have not begun with it take chunks instead`;
    case 'waiting':
    case 'making':
      return `${what} is no longer made: devices take chunks`;
    default:
      return `${what} is no longer shown as ${state === 'notWorth' ? 'not worth it' : state}: no device used it`;
  }
}

function noneNamed(product: string, version: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_OPTION_MISSING',
    'no delta was named that is to be removed',
    {
      hint: `name the releases that they lead from (sitecast release deltas ${product} ${version} --remove --from VERSION), or say --all`,
    },
  );
}
