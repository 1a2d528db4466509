import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import {
  type DeltaName,
  indexTarget,
  manifestTarget,
  productTarget,
  serializeFile,
  withdrawnAfter,
} from '@sitecast/shared/release';
import { nextVersion, targetFileOf } from '@sitecast/shared/signing';
import { newDraft } from '../draft/draft.ts';
import { type FinishOptions, signAndSubmit } from '../draft/sign-and-submit.ts';
import { print, printJson } from '../output.ts';
import { findRelease, type PublishedProduct, readKnownProduct } from './releases.ts';
import { removeDeltas, signedDeltasIn } from './signed-list.ts';
import { openRepository } from '../origin/repository-view.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';

interface WithdrawOptions extends OriginOptions, TrustOptions, FinishOptions {
  counter?: number;
  json?: boolean;
}

/** @throws SITECAST_RELEASE_UNKNOWN, SITECAST_FILES_LOST */
function counterOf(published: PublishedProduct, version: string, counter: number | undefined): number {
  if (counter !== undefined && published.lost.includes(counter)) return counter;
  const found = findRelease(published, version);
  if (counter === undefined || counter === found.counter) return found.counter;
  throw new SitecastError(
    'badInput',
    'SITECAST_RELEASE_UNKNOWN',
    `${found.product} ${version} has the counter ${found.counter}, not ${counter}`,
  );
}

export function releaseWithdrawCommand(): SettingsCommand {
  const command = new SettingsCommand('withdraw')
    .description('unlist a release, and its signed deltas: no device will be ordered to it any more')
    .argument('<product>')
    .argument('<version>')
    .option('--draft <file>', 'write a draft for other key holders to sign instead of submitting')
    .option(
      '--counter <n>',
      'its number, where the origin has lost its manifest: VERSION is taken at your word then',
      parseBoundedInteger(1, Number.MAX_SAFE_INTEGER),
    )
    .option('--json', 'print one JSON object');
  addKeyOptions(addTrustOptions(addOriginOptions(command)));
  return command
    .addHelpText('after', '\nExample:\n  sitecast release withdraw camera 2.0.0')
    .action(async (product: string, version: string, options: WithdrawOptions) => {
      const origin = await connect(options);
      const view = await openRepository(options, origin);
      const published = await readKnownProduct(view, product);
      const counter = counterOf(published, version, options.counter);
      const withdrawn = withdrawnAfter(published.file, [{ counter, version }]);
      const bytes = serializeFile({ ...published.file, withdrawn });
      const targets = nextVersion(view.targets, Date.now());
      delete targets.targets[manifestTarget(product, counter)];
      delete targets.targets[indexTarget(product, counter)];
      const isOfIt = ({ from, to }: DeltaName): boolean => from === counter || to === counter;
      removeDeltas(targets, signedDeltasIn(targets, product).filter(isOfIt));
      targets.targets[productTarget(product)] = targetFileOf(bytes);
      const draft = newDraft(`withdraw ${product} ${version}`, { targets }, [
        [productTarget(product), bytes],
      ]);
      const result = await signAndSubmit(draft, view.root, origin, options);
      if (result === undefined) return;
      if (options.json) printJson({ product, version, counter, withdrawn: true });
      else print(`withdrew ${product} ${version} (counter ${counter})`);
    });
}
