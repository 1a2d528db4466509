import { MAX_STAGES } from '@sitecast/shared/api';
import { parseBoundedInteger, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { findRollout } from '../find.ts';
import { fetchRollouts, fetchRolloutStatus } from '../origin/fleet-api.ts';
import { note, print, printJson, table } from '../output.ts';
import { describeMatch, describeStatus, stateText } from './view.ts';
import { watchRollout } from './watch.ts';
import { addOriginOptions, connect, type OriginOptions } from '../settings.ts';

interface JsonOptions extends OriginOptions {
  json?: boolean;
}

interface StatusOptions extends JsonOptions {
  watch?: boolean;
  untilStage?: number;
}

const asJson = (command: SettingsCommand): SettingsCommand =>
  addOriginOptions(command).option('--json', 'print one JSON object');

export function rolloutStatusCommand(): SettingsCommand {
  const command = new SettingsCommand('status')
    .description('show how far a rollout has got, device by device')
    .argument('[id]', 'default: the newest one')
    .option('--watch', 'go on showing it until it has ended, or goes on no more by itself')
    .option(
      '--until-stage <n>',
      'watch until this stage is over: its devices are well, or a later one has begun',
      parseBoundedInteger(1, MAX_STAGES),
    );
  return asJson(command)
    .addHelpText(
      'after',
      `
It tells the stage, what is left of its soak, and how many of the rollout's devices it has reached. Without --watch the exit
code is 0, however the rollout stands. With --watch it tells how the rollout ended:
  0  it is completed; with --until-stage also: that stage is over, and the rollout goes on
  1  it was aborted or sent back; the origin has paused it; or devices failed, so that it never completes by itself
An operator's pause is waited through, and a rollback until nobody is left who can go back. With --watch --json there is one object a line, one for each change.

Examples:
  sitecast rollout status
  sitecast rollout status 1f0c9a5be6d27788 --watch
  sitecast rollout status 1f0c9a5be6d27788 --until-stage 1 && ./my-acceptance-test`,
    )
    .action(async (text: string | undefined, options: StatusOptions) => {
      const origin = await connect(options);
      const { id, plan } = await findRollout(origin, text);
      const { watch = false, untilStage, json = false } = options;
      if (!watch && untilStage === undefined) {
        const status = await fetchRolloutStatus(origin, id);
        if (json) printJson(status);
        else print(describeStatus(status, Date.now()));
        return;
      }
      if (untilStage !== undefined && untilStage > plan.stages.length)
        throw new SitecastError(
          'badInput',
          'SITECAST_OPTION_CONFLICT',
          `rollout ${id} has ${plan.stages.length} stages: there is no stage ${untilStage} to wait for`,
        );
      const ending = await watchRollout(() => fetchRolloutStatus(origin, id), { asJson: json, untilStage });
      if (ending.isGood) {
        note(ending.text);
        return;
      }
      const hint = ending.hint === undefined ? {} : { hint: ending.hint };
      throw new SitecastError('failed', 'SITECAST_ROLLOUT_FAILED', ending.text, hint);
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
      print(
        product === undefined
          ? 'no rollout yet: `sitecast rollout start` makes the first'
          : `no rollout of the product ${product}`,
      );
      return;
    }
    const rows = rollouts.map(rollout => [
      rollout.id,
      rollout.product,
      `${rollout.release.version} (${rollout.release.counter})`,
      stateText(rollout, Date.now()),
      rollout.createdAt,
      rollout.startedBy,
      describeMatch(rollout),
    ]);
    print(table(['ID', 'PRODUCT', 'RELEASE', 'STATE', 'STARTED', 'BY', 'FOR'], rows));
  });
}
