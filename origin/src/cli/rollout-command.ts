import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { findRollout } from './find-rollout.ts';
import { fetchRollouts, fetchRolloutStatus } from './fleet-api.ts';
import { print, printJson, table } from './output.ts';
import { describeMatch, describeStatus, endOf } from './rollout-view.ts';
import { watchRollout } from './rollout-watch.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

interface JsonOptions extends OriginOptions {
  json?: boolean;
}

const asJson = (command: SettingsCommand): SettingsCommand =>
  addOriginOptions(command).option('--json', 'print one JSON object');

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
