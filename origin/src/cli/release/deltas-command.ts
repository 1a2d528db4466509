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
import { removeListed } from './deltas-remove.ts';
import { type DeltaList, fetchDeltas, makesNoDeltas, requestDeltas } from './deltas-api.ts';
import { describeCost, describeDeltas, fromText } from './deltas-view.ts';

interface DeltasOptions extends OriginOptions, TrustOptions, KeyOptions {
  from?: string[];
  fromRunning?: boolean;
  remove?: boolean;
  all?: boolean;
  draft?: string;
  json?: boolean;
}

const HELP = `
With a delta a device makes most of an image from the one that it runs, and fetches patches for the rest. The origin makes deltas by
itself when a rollout starts, from the releases that most devices run, one after the other in the background: those that rollouts
under way need come first, then those that operators asked for. With a version this command tells what an update to it costs from
each release that runs; what isn't published yet is an estimate (\`about\`).

What it shows of a delta:
  waiting        its turn comes; where making it failed, the reason and the time of the next try stand beside it
  making, 42 %   so much of the image has been gone through
  published      devices use it
  not worth it   devices would fetch no less by it than by chunks: they take chunks
  failed         given up after four tries, with the reason; --from begins anew
  removed        an operator removed it, or the rollouts to its release are over; shown for a week

Deltas that release keys have signed (\`release draft --delta-from\`) count for devices with \`--deltas signed-only\`, too. The origin can't
take them away: the next draft of their product leaves out those whose rollouts are over.

--remove ends the making of a delta, or takes it out of the list: one that release keys have signed with those keys, any other without.
A rollout that is started later has the origin make its deltas again, unless that runs with --make-deltas asked. Devices that have
begun with patches of it go on by chunks where those are gone.

Examples:
  sitecast release deltas camera                                  all, and how far they are
  sitecast release deltas camera 2.0.0                            what an update to 2.0.0 costs
  sitecast release deltas camera 2.0.0 --from 1.0.0 --from 1.1.0  have them made before the rollout starts
  sitecast release deltas camera 2.0.0 --remove --from 1.0.0      have this one made no more, or no longer listed
  sitecast release deltas camera 2.0.0 --remove --all             all that lead to 2.0.0`;

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
      new Option('--from-running', 'have those made from the older releases that most devices run').conflicts(
        'from',
      ),
    )
    .addOption(
      new Option(
        '--remove',
        'end the making of deltas to the release, or take them out of the list: those of --from, or --all',
      ).conflicts('fromRunning'),
    )
    .addOption(new Option('--all', 'with --remove: from whatever release they lead').conflicts('from'))
    .option(
      '--draft <file>',
      'with --remove of signed ones: write a draft for other key holders to sign instead of submitting',
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
    if (version === undefined) throw versionMissing('--remove --from VERSION, or --remove --all');
    await removeListed(product, version, all);
    return;
  }
  if (all.all === true || all.draft !== undefined) throw onlyWithRemove();
  const origin = await connect(options);
  if (from || fromRunning) {
    if (version === undefined) throw versionMissing('--from VERSION');
    const asked = await requestDeltas(origin, product, version, from);
    if (json) printJson(asked);
    else if (asked.deltas.length === 0)
      print('no device runs a release that a delta could be made from, and that it could use one of');
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
  else if (!list.cost)
    note(
      `no delta of ${product} yet: the origin makes those that devices need when a rollout is started, or: sitecast release deltas ${product} VERSION --from VERSION`,
    );
  if (list.held !== undefined)
    note(`none is made at the moment: ${list.held}; \`sitecast status\` says more`);
  for (const delta of list.deltas)
    if (delta.state === 'failed' && delta.toVersion !== undefined)
      note(
        `to try again from ${fromText(delta)}: sitecast release deltas ${product} ${delta.toVersion} --from ${fromText(delta)}`,
      );
}

function onlyWithRemove(): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_OPTIONS_CLASH',
    '--all and --draft are for --remove: without it nothing is removed, and nothing is signed',
  );
}

function versionMissing(options: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_OPTION_MISSING',
    'no version was named that deltas lead to',
    {
      hint: `sitecast release deltas PRODUCT VERSION ${options}`,
    },
  );
}
