import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import {
  collect,
  collectTag,
  fetchRollouts,
  fetchRolloutStatus,
  type Rollout,
  rolloutSchema,
  rolloutStatusSchema,
  tagsOf,
} from './fleet-api.ts';
import type { OriginClient } from './origin-client.ts';
import { note, plural, print, printJson, table } from './output.ts';
import { describeMatch, describeStatus, endOf } from './rollout-view.ts';
import { watchRollout } from './rollout-watch.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

interface JsonOptions extends OriginOptions {
  json?: boolean;
}

const asJson = (command: SettingsCommand): SettingsCommand =>
  addOriginOptions(command).option('--json', 'print one JSON object');

interface StartOptions extends JsonOptions {
  allAtOnce?: boolean;
  hardware?: string[];
  site?: string[];
  tag?: string[];
  allowDowngrade?: boolean;
}

export function rolloutStartCommand(): SettingsCommand {
  const command = new SettingsCommand('start')
    .description('order devices to a release that is published')
    .argument('<product>')
    .argument('<version>')
    .option('--all-at-once', 'reach all matching devices at the same time')
    .option(
      '--hardware <name>',
      'just this hardware; may be repeated (default: all that the release is for)',
      collect,
    )
    .option('--site <site>', 'just devices at this site; may be repeated', collect)
    .option('--tag <name=value>', 'just devices with this tag; may be repeated', collectTag)
    .option('--allow-downgrade', 'even where devices run a newer release');
  return asJson(command)
    .addHelpText(
      'after',
      `
A device enrolled later gets it, too, as long as it is the newest rollout that reaches it.

Examples:
  sitecast rollout start camera 2.0.0 --all-at-once
  sitecast rollout start camera 2.0.0 --all-at-once --site north --tag ring=early`,
    )
    .action(async (product: string, version: string, options: StartOptions) => {
      const origin = await connect(options);
      const { hardware, site, tag, allAtOnce, allowDowngrade } = options;
      const started = await origin.json('/api/v1/rollouts', rolloutStatusSchema, {
        method: 'POST',
        json: {
          product,
          version,
          match: {
            ...(hardware && { hardware }),
            ...(site && { sites: site }),
            ...(tag && { tags: tagsOf(tag) }),
          },
          allAtOnce: allAtOnce === true,
          allowDowngrade: allowDowngrade === true,
        },
      });
      if (options.json) {
        printJson(started);
        return;
      }
      print(`rollout ${started.id}: ${product} ${version} to ${plural(started.total, 'device')}`);
      if (started.total === 0) note('no enrolled device matches yet: it waits for those that come');
      note(`watch it with: sitecast rollout status ${started.id} --watch`);
    });
}

export function rolloutStatusCommand(): SettingsCommand {
  const command = new SettingsCommand('status')
    .description('show how far a rollout has got, device by device')
    .argument('[id]', 'default: the newest one')
    .option('--watch', 'go on showing it until nothing more is going on');
  return asJson(command)
    .addHelpText(
      'after',
      `
With --watch the exit code tells how it ended: 0 if all devices completed, 1 if some failed or it was aborted.
With --watch --json there is one object a line, one for each change.

Examples:
  sitecast rollout status
  sitecast rollout status 1f0c9a5be6d27788 --watch`,
    )
    .action(async (text: string | undefined, options: JsonOptions & { watch?: boolean }) => {
      const origin = await connect(options);
      const { id } = await findRollout(origin, text);
      if (!options.watch) {
        const status = await fetchRolloutStatus(origin, id);
        if (options.json) printJson(status);
        else print(describeStatus(status));
        return;
      }
      const last = await watchRollout(() => fetchRolloutStatus(origin, id), options.json === true);
      if (endOf(last) === 'bad') {
        throw new SitecastError(
          'failed',
          'SITECAST_ROLLOUT_FAILED',
          last.state === 'aborted'
            ? `rollout ${id} was aborted`
            : `rollout ${id} did not succeed on every device`,
          { hint: '`sitecast device show ID` tells why one failed.' },
        );
      }
    });
}

export function rolloutListCommand(): SettingsCommand {
  return asJson(
    new SettingsCommand('list')
      .description('list rollouts, newest first')
      .argument('[product]', 'just of this one'),
  ).action(async (product: string | undefined, options: JsonOptions) => {
    const rollouts = await fetchRollouts(await connect(options), product);
    if (options.json) {
      printJson({ rollouts });
      return;
    }
    if (rollouts.length === 0) {
      print('no rollout yet: `sitecast rollout start` makes the first');
      return;
    }
    const rows = rollouts.map(rollout => [
      rollout.id,
      rollout.product,
      `${rollout.release.version} (${rollout.release.counter})`,
      rollout.state,
      rollout.createdAt,
      rollout.startedBy,
      describeMatch(rollout),
    ]);
    print(table(['ID', 'PRODUCT', 'RELEASE', 'STATE', 'STARTED', 'BY', 'FOR'], rows));
  });
}

export function rolloutAbortCommand(): SettingsCommand {
  return endCommand('abort', 'stop a rollout: devices that have not activated it yet leave it alone');
}

export function rolloutCompleteCommand(): SettingsCommand {
  return endCommand('complete', 'end a rollout as good: its release is what latecomers get');
}

function endCommand(name: 'abort' | 'complete', description: string): SettingsCommand {
  return asJson(new SettingsCommand(name).description(description).argument('<id>'))
    .addHelpText('after', `\nExample:\n  sitecast rollout ${name} 1f0c9a5be6d27788`)
    .action(async (text: string, options: JsonOptions) => {
      const origin = await connect(options);
      const { id } = await findRollout(origin, text);
      const rollout = await origin.json(`/api/v1/rollouts/${id}/${name}`, rolloutSchema, { method: 'POST' });
      if (options.json) printJson(rollout);
      else print(`rollout ${id} of ${rollout.product} ${rollout.release.version} is ${rollout.state}`);
    });
}

/** By its id, or the beginning of it; the newest one without. */
async function findRollout(origin: OriginClient, text: string | undefined): Promise<Rollout> {
  const rollouts = await fetchRollouts(origin);
  const found = text === undefined ? rollouts.slice(0, 1) : rollouts.filter(({ id }) => id.startsWith(text));
  const [only] = found;
  if (only && found.length === 1) return only;
  const message =
    text === undefined ? 'there is no rollout yet' : `${found.length} rollouts begin with ${text}`;
  throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', message, {
    hint: '`sitecast rollout list` shows them.',
  });
}
