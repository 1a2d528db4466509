import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { Option } from 'commander';
import { collect } from '../origin/fleet-api.ts';
import { note, print, printJson } from '../output.ts';
import {
  addKeyOptions,
  addOriginOptions,
  addTrustOptions,
  connect,
  type KeyOptions,
  type OriginOptions,
  type TrustOptions,
} from '../settings.ts';
import { removeSigned } from './deltas-remove.ts';
import { type DeltaList, fetchDeltas, makesNoDeltas, requestDeltas } from './deltas-api.ts';
import { describeCost, describeDeltas } from './deltas-view.ts';

interface DeltasOptions extends OriginOptions, TrustOptions, KeyOptions {
  from?: string[];
  fromRunning?: boolean;
  remove?: boolean;
  draft?: string;
  json?: boolean;
}

const HELP = `
With a delta a device makes most of an image from the one that it runs, and fetches patches for the rest. The origin makes deltas by
itself when a rollout starts, from the releases that most devices run, one after the other in the background. With a version this
command tells what an update to it costs from each release that runs; what isn't published yet is an estimate.

Deltas that release keys have signed (\`release draft --delta-from\`) count for devices with \`--deltas signed-only\`, too. The origin can't
take them away: the next draft of their product leaves out those whose rollouts are over, and --remove takes out others.

Examples:
  sitecast release deltas camera                                  all, and how far they are
  sitecast release deltas camera 2.0.0                            what an update to 2.0.0 costs
  sitecast release deltas camera 2.0.0 --from 1.0.0 --from 1.1.0  have them made before the rollout starts
  sitecast release deltas camera 2.0.0 --remove --from 1.0.0      sign that this delta is no longer listed`;

export function releaseDeltasCommand(): SettingsCommand {
  const command = new SettingsCommand('deltas')
    .description('deltas between releases: which there are, what updates cost; have some made beforehand')
    .argument('<product>')
    .argument('[version]', 'just those that lead to this release')
    .option(
      '--from <version>',
      'have the delta from this release made, or with --remove taken out; may be repeated',
      collect,
    )
    .addOption(
      new Option('--from-running', 'have those made from the releases that most devices run').conflicts(
        'from',
      ),
    )
    .addOption(
      new Option(
        '--remove',
        'take signed deltas to the release out of the list, with release keys',
      ).conflicts('fromRunning'),
    )
    .option(
      '--draft <file>',
      'with --remove: write a draft for other key holders to sign instead of submitting',
    )
    .option('--json', 'print one JSON object');
  addKeyOptions(addTrustOptions(command));
  return addOriginOptions(command).addHelpText('after', HELP).action(deltas);
}

async function deltas(
  product: string,
  version: string | undefined,
  { remove = false, ...all }: DeltasOptions,
): Promise<void> {
  const { from, fromRunning = false, json, ...options } = all;
  if (remove) {
    if (version === undefined) throw versionMissing();
    await removeSigned(product, version, all);
    return;
  }
  const origin = await connect(options);
  if (from || fromRunning) {
    if (version === undefined) throw versionMissing();
    const asked = await requestDeltas(origin, product, version, from);
    if (json) printJson(asked);
    else if (asked.deltas.length === 0) print('no device runs a release that a delta could be made from');
    else show(product, asked);
    return;
  }
  const list = await fetchDeltas(origin, product, version);
  if (!list) throw makesNoDeltas();
  if (json) printJson(list);
  else show(product, list);
}

function show(product: string, list: DeltaList): void {
  if (list.cost) print(describeCost(list.cost));
  if (list.deltas.length > 0) print(describeDeltas(list.deltas));
  else if (!list.cost) note(`no delta of ${product} is made yet: a rollout begins with it`);
}

function versionMissing(): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_OPTION_MISSING',
    'no version was named that deltas lead to',
    {
      hint: 'sitecast release deltas PRODUCT VERSION --from VERSION',
    },
  );
}
