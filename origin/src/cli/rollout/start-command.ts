import { plural } from '@sitecast/shared/text';
import type { RolloutSpecInput } from '@sitecast/shared/api';
import {
  applyOptionsFile,
  parseBoundedInteger,
  parseDurationMs,
  parsePercent,
  SettingsCommand,
} from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { InvalidArgumentError, Option } from 'commander';
import { findMember } from '../find.ts';
import type { OriginClient } from '../origin/client.ts';
import {
  collect,
  collectTag,
  type DryRun,
  dryRunSchema,
  startedRolloutSchema,
  tagsOf,
} from '../origin/fleet-api.ts';
import { note, print, printJson } from '../output.ts';
import { fetchDeltas } from '../release/deltas-api.ts';
import { describeCost } from '../release/deltas-view.ts';
import { describeDeltasAwaited, describeDryRun, describeSuperseded } from './view.ts';
import { addOriginOptions, connect, type OriginOptions } from '../settings.ts';

const MAX_MIN_FAILURES = 1_000_000;
const DEFAULT_SHARES = [100, 1000, 5000, 10_000];
/** Settings of a rollout file that may be lists. */
const LISTS = { repeatable: ['hardware', 'site', 'tag', 'canary-device'], joined: ['stages', 'soak'] };

interface StartOptions extends OriginOptions {
  stages?: number[];
  soak?: number[];
  lastSoak?: number;
  canaryDevice?: string[];
  canaryPerSite?: boolean;
  maxFailures?: number;
  minFailures?: number;
  onFailure?: RolloutSpecInput['onFailure'];
  silentAfter?: number;
  hardware?: string[];
  site?: string[];
  tag?: string[];
  fromVersion?: { min?: string; max?: string };
  window?: string;
  download?: RolloutSpecInput['download'];
  notBefore?: string;
  offlineFor?: number;
  maxDown?: number;
  allAtOnce?: boolean;
  allowDowngrade?: boolean;
  allowWithoutGateway?: boolean;
  allowUnknown?: boolean;
  id?: string;
  file?: string;
  dryRun?: boolean;
  json?: boolean;
}

const EXAMPLES = `
It grows stage by stage: each stage reaches exactly its share of the enrolled devices that match, waits until they are
well, soaks, and begins the next; after the last it's completed. Failures are judged on every report, also while it soaks. A
device enrolled later gets it in the last stage. Without stages (--all-at-once alone) it soaks only if --soak or --last-soak says so.
While its last stage soaks the next rollout may be started: this one is completed then. \`sitecast rollout rollback\` works to the end, and after it.

--dry-run starts nothing. It shows which devices each stage would reach, and what the update costs them from each release that they run:
  from 1.0.0, 5 devices: 1.4 MiB a device, by a delta          published: this is what they fetch
  from 1.1.0, 2 devices: about 14 MiB a device, by chunks      an estimate: there is no delta yet, the origin may make one
    1 of them lacks lz4-…: about 20 MiB a device, by a delta   it fetches chunks for a part
  over the WAN of 2 sites: at most …                           devices of a site share what they fetch; the whole image is
                                                               counted where some have not said which release they run
When a rollout starts the origin makes deltas (\`sitecast release deltas PRODUCT\`). Devices with --max-bytes and sites with --wan-rate
wait for theirs, at most until the time that \`rollout start\` tells; all others begin with chunks at once.

A rollout file names flags without their dashes, and product and version; flags given besides count more:
  product: camera
  version: 2.0.0
  stages: [1, 10, 50, 100]
  soak: 4h
  site: [north, south]

Examples:
  sitecast rollout start camera 2.0.0 --canary-per-site --soak 12h
  sitecast rollout start camera 2.0.0 --stages 5,25,100 --max-failures 2% --window 'Mon-Fri 01:00-05:00'
  sitecast rollout start camera 2.0.0 --all-at-once --site north --tag ring=early --soak 2h
  sitecast rollout start camera 2.0.0 --all-at-once --dry-run
  sitecast rollout start --file rollout.yaml --dry-run`;

export function rolloutStartCommand(): SettingsCommand {
  const command = new SettingsCommand('start')
    .description('order devices to a release that is published')
    .argument('[product]')
    .argument('[version]');
  addStageOptions(command);
  addFailureOptions(command);
  addMatchOptions(command);
  addTermOptions(command);
  return addOriginOptions(command)
    .option('--file <file>', 'read these settings from a YAML file')
    .option('--dry-run', 'show which devices each stage would reach and what that costs, and start nothing')
    .option('--id <id>', 'of a dry run: the same devices come first')
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(start);
}

function addStageOptions(command: SettingsCommand): void {
  command
    .addOption(
      new Option('--stages <percent,…>', 'shares of the matching devices (default: 1,10,50,100)').argParser(
        listOf(parsePercent),
      ),
    )
    .addOption(
      new Option(
        '--soak <duration>',
        'how long a stage must have been well before the next, and the last before it is completed; one for each, with commas, or one for all (default: 4h; of a single stage: 0s)',
      ).argParser(listOf(parseDurationMs)),
    )
    .addOption(
      new Option('--last-soak <duration>', 'of the last stage, if it differs (0s: none)').argParser(
        parseDurationMs,
      ),
    )
    .option(
      '--canary-device <device>',
      'a name or an id: in the first stage, before all shares; may be repeated',
      collect,
    )
    .option('--canary-per-site', 'one device of each site in the first stage')
    .option('--all-at-once', 'without stages, or with a first one of more devices than 10 % are');
}

function addFailureOptions(command: SettingsCommand): void {
  command
    .addOption(
      new Option(
        '--max-failures <percent>',
        "of the devices reached so far; with more it's stopped (default: 5%)",
      ).argParser(parsePercent),
    )
    .addOption(
      new Option(
        '--min-failures <count>',
        'with fewer it pauses instead of going back (default: 2)',
      ).argParser(parseBoundedInteger(1, MAX_MIN_FAILURES)),
    )
    .addOption(
      new Option('--on-failure <reaction>', 'what to do then (default: rollback)').choices([
        'rollback',
        'pause',
      ]),
    )
    .addOption(
      new Option(
        '--silent-after <duration>',
        'a device that began and says nothing for so long counts as silent (default: 24h)',
      ).argParser(parseDurationMs),
    );
}

function addMatchOptions(command: SettingsCommand): void {
  command
    .option(
      '--hardware <name>',
      'just this hardware; may be repeated (default: all that the release is for)',
      collect,
    )
    .option('--site <site>', 'just devices at this site; may be repeated', collect)
    .option('--tag <name=value>', 'just devices with this tag; may be repeated', collectTag)
    .addOption(
      new Option(
        '--from-version <version>',
        'just devices that run this release; A..B, A.. and ..B are ranges',
      ).argParser(parseVersionRange),
    )
    .option('--allow-downgrade', 'even where devices run a newer release')
    .option(
      '--allow-unknown',
      'even where nobody has a site, hardware or tag that is named: they are to come',
    );
}

function addTermOptions(command: SettingsCommand): void {
  command
    .option('--window <window>', "when devices may activate it, by their own clock: 'Mon-Fri 01:00-05:00'")
    .addOption(
      new Option('--download <when>', 'at any time, or in the window, too (default: anytime)').choices([
        'anytime',
        'window',
      ]),
    )
    .addOption(new Option('--not-before <time>', 'no activation before').argParser(parseInstant))
    .addOption(
      new Option(
        '--offline-for <duration>',
        'how old the order may be where nobody can confirm it (default: 24h)',
      ).argParser(parseDurationMs),
    )
    .addOption(
      new Option('--max-down <percent>', 'of a site that may be down at once (default: 25%)').argParser(
        parsePercent,
      ),
    )
    .option(
      '--allow-without-gateway',
      'where all gateways of a site have been silent for 6 hours, its devices go down by turns (docs/OPERATIONS.md)',
    );
}

async function start(
  product: string | undefined,
  version: string | undefined,
  given: StartOptions,
  command: SettingsCommand,
): Promise<void> {
  const named =
    given.file === undefined
      ? new Map<string, string>()
      : await applyOptionsFile(command, given.file, ['product', 'version'], LISTS);
  const options: StartOptions = command.opts();
  const wanted = {
    product: needed('product', product ?? named.get('product')),
    version: needed('version', version ?? named.get('version')),
  };
  const origin = await connect(options);
  const canaries: string[] = [];
  for (const text of options.canaryDevice ?? []) canaries.push(await findMember(origin, 'device', text));
  const json: RolloutSpecInput = { ...wanted, ...bodyOf(options, canaries) };
  const request = { method: 'POST', json } as const;
  if (options.dryRun) {
    const dry = await origin.json('/api/v1/rollouts', dryRunSchema, request);
    await showDryRun(origin, wanted, { dry, isJson: options.json === true });
    return;
  }
  const started = await origin.json('/api/v1/rollouts', startedRolloutSchema, request);
  if (options.json) {
    printJson(started);
    return;
  }
  const { id, total, matching = total, plan, supersedes } = started;
  for (const line of describeSuperseded(supersedes, 'is completed now')) note(line);
  const stage = plan.stages.length > 1 ? `, in the first of ${plan.stages.length} stages` : '';
  print(
    `rollout ${id}: ${json.product} ${json.version} to ${total} of ${plural(matching, 'device')}${stage}`,
  );
  if (total === 0)
    note(
      `no enrolled device matches yet: it waits for those that come, and no other rollout to the same can begin until \`sitecast rollout abort ${id}\``,
    );
  note(describeDeltasAwaited({ ...started, ...wanted }, Date.now()));
  note(`watch it with: sitecast rollout status ${id} --watch`);
}

async function showDryRun(
  origin: OriginClient,
  { product, version }: { product: string; version: string },
  { dry, isJson }: { dry: DryRun; isJson: boolean },
): Promise<void> {
  const cost = (await fetchDeltas(origin, product, version))?.cost;
  if (isJson) printJson({ ...dry, ...(cost && { cost }) });
  else
    print([
      ...describeDryRun(dry),
      ...(cost ? describeCost(cost) : []),
      ...describeDeltasAwaited({ ...dry, product, version }, Date.now()),
    ]);
}

/** @param canaries ids of the named canary devices */
function bodyOf(options: StartOptions, canaries: readonly string[]): Omit<RolloutSpecInput, 'product'> {
  const { hardware, site, tag, fromVersion, canaryPerSite } = options;
  const hasCanaries = canaries.length > 0 || canaryPerSite === true;
  return {
    id: options.id,
    match: { hardware, sites: site, tags: tag && tagsOf(tag), fromVersion },
    ...stagesOf(options, hasCanaries),
    canaries: hasCanaries ? { ids: [...canaries], perSite: canaryPerSite === true } : undefined,
    maxFailuresBasisPoints: options.maxFailures,
    minFailures: options.minFailures,
    onFailure: options.onFailure,
    silentAfterMs: options.silentAfter,
    window: options.window,
    download: options.download,
    notBefore: options.notBefore,
    offlineForMs: options.offlineFor,
    maxDownBasisPoints: options.maxDown,
    allAtOnce: options.allAtOnce === true,
    allowDowngrade: options.allowDowngrade === true,
    // Only where it is asked for: an origin that doesn't know the field refuses it.
    allowWithoutGateway: options.allowWithoutGateway === true ? true : undefined,
    // An origin of 0.1.0 doesn't know the field, and refuses no names.
    allowUnknown: options.allowUnknown === true ? true : undefined,
    dryRun: options.dryRun === true,
  };
}

function stagesOf(
  { stages, soak, lastSoak, allAtOnce = false }: StartOptions,
  hasCanaries: boolean,
): Pick<RolloutSpecInput, 'stages' | 'soakMs' | 'lastSoakMs'> {
  const [first, second] = soak ?? [];
  if (second === undefined)
    return { stages: stages?.map(basisPoints => ({ basisPoints })), soakMs: first, lastSoakMs: lastSoak };
  const shares = stages ?? (allAtOnce ? [10_000] : DEFAULT_SHARES);
  const all = hasCanaries && shares[0] !== 0 ? [0, ...shares] : shares;
  if (soak?.length !== all.length)
    throw new SitecastError(
      'badInput',
      'SITECAST_OPTION_CONFLICT',
      `--soak names ${soak?.length ?? 0} durations for ${all.length} stages${hasCanaries ? ", the canaries' among them" : ''}`,
    );
  refuseTwoLastSoaks(soak, lastSoak);
  return { stages: all.map((basisPoints, at) => ({ basisPoints, soakMs: soak[at] })) };
}

function refuseTwoLastSoaks(soak: readonly number[], lastSoak: number | undefined): void {
  if (lastSoak === undefined || lastSoak === soak.at(-1)) return;
  throw new SitecastError(
    'badInput',
    'SITECAST_OPTION_CONFLICT',
    '--soak and --last-soak name different durations for the last stage',
  );
}

function needed(name: string, value: string | undefined): string {
  if (value !== undefined) return value;
  throw new SitecastError('badInput', 'SITECAST_OPTION_MISSING', `no ${name} was named`, {
    hint: 'sitecast rollout start PRODUCT VERSION, or --file with both in it',
  });
}

function listOf<T>(parse: (text: string) => T): (text: string) => T[] {
  return text => text.split(',').map(part => parse(part.trim()));
}

/** Parses `1.0.0`, `1.0.0..1.4.2`, `1.0.0..` or `..1.4.2`. */
function parseVersionRange(text: string): { min?: string; max?: string } {
  const at = text.indexOf('..');
  if (at < 0) return { min: text, max: text };
  const [min, max] = [text.slice(0, at), text.slice(at + 2)];
  if (min === '' && max === '') throw new InvalidArgumentError('expected a version, A..B, A.. or ..B');
  return { ...(min !== '' && { min }), ...(max !== '' && { max }) };
}

function parseInstant(text: string): string {
  const ms = /^\d{4}-\d\d-\d\d(T|$)/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(ms)) throw new InvalidArgumentError('expected a time such as 2030-01-31T01:00:00Z');
  return new Date(ms).toISOString();
}
