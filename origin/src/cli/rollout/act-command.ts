import { plural } from '@sitecast/shared/text';
import { OPERATOR_ACTS, type OperatorAct } from '@sitecast/shared/api';
import { SettingsCommand } from '@sitecast/shared/command';
import { confirm } from '../terminal.ts';
import { findRolloutUnderWay } from '../find.ts';
import { fetchRolloutStatus, previewSchema, type Rollout, rolloutSchema } from '../origin/fleet-api.ts';
import type { OriginClient } from '../origin/client.ts';
import { note, print, printJson } from '../output.ts';
import { describeFailures } from './view.ts';
import { addOriginOptions, connect, type OriginOptions } from '../settings.ts';

interface ActOptions extends OriginOptions {
  json?: boolean;
  yes?: boolean;
  acknowledge?: boolean;
  to?: string;
}

const ACTS: Record<OperatorAct, [leadsTo: string | undefined, description: string]> = {
  pause: ['paused', 'let devices wait that have not activated it yet'],
  resume: ['active', 'go on with a paused rollout'],
  abort: ['aborted', 'stop a rollout: devices that have not activated it yet leave it alone'],
  rollback: [
    'rollingBack',
    'send devices back to the release that they came from, also after the rollout has ended',
  ],
  advance: [undefined, 'begin the next stage now, whether the present one has soaked or not'],
  retry: [undefined, 'raise the attempt number: devices on which it failed try again'],
  complete: ['completed', 'end a rollout as good: its release is what latecomers get'],
};
const EXAMPLE_OPTIONS: Partial<Record<OperatorAct, string>> = {
  resume: ' --acknowledge',
  rollback: '\n  sitecast rollout rollback 1f0c9a5be6d27788 --to 1.4.2',
};

const MORE_HELP: Partial<Record<OperatorAct, string>> = {
  rollback: `

Devices go back at once where their other slot holds the release; with --to they fetch it where it doesn't. It stays so, also for
devices that were away, until \`sitecast rollout abort\`. Of a rollout that has ended just the newest can be sent back.`,
  complete: `

Late failures stop it no more then; \`sitecast rollout rollback\` still leads its devices back.`,
};

/** The commands that steer a rollout. Each says how many devices it touches before it acts. */
export function rolloutActCommands(): SettingsCommand[] {
  return OPERATOR_ACTS.map(actCommand);
}

function actCommand(act: OperatorAct): SettingsCommand {
  const [, description] = ACTS[act];
  const command = new SettingsCommand(act)
    .description(description)
    .argument('[id]', 'or the beginning of it; default: the only rollout that is under way');
  if (act === 'resume')
    command.option('--acknowledge', 'the failures were looked at: they stop the rollout no more');
  if (act === 'rollback')
    command.option('--to <version>', 'go back to this release, instead of the one that each came from');
  return addOriginOptions(command)
    .option('--yes', 'do not ask')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
It says how many devices it touches, and asks at a terminal. What can't be done is refused before it asks. Said twice it does
nothing the second time.${MORE_HELP[act] ?? ''}

Example:
  sitecast rollout ${act} 1f0c9a5be6d27788${EXAMPLE_OPTIONS[act] ?? ''}`,
    )
    .action(async (text: string | undefined, options: ActOptions) => {
      const origin = await connect(options);
      const rollout = await findRolloutUnderWay(origin, text, act);
      const done = await perform(origin, rollout, act, options);
      const { id, product, release, state } = done;
      if (options.json) printJson(done);
      else print(`rollout ${id} of ${product} ${release.version} is ${state}${progressOf(act, done)}`);
    });
}

async function perform(
  origin: OriginClient,
  rollout: Rollout,
  act: OperatorAct,
  { yes = false, acknowledge = false, to }: ActOptions,
): Promise<Rollout> {
  const { id, product, release, state } = rollout;
  // The failures come first, because the error that refuses to resume doesn't name them.
  if (act === 'resume' && state === 'paused') await showFailures(origin, id);
  const query = new URLSearchParams({
    act,
    ...(act === 'resume' && { acknowledge: String(acknowledge) }),
    ...(to !== undefined && { to }),
  });
  const path = `/api/v1/rollouts/${id}`;
  const { touches, what, target } = await origin.json(`${path}/preview?${query.toString()}`, previewSchema);
  const [goal] = ACTS[act];
  const isOtherGoal = to !== undefined && to !== rollout.rollbackTo?.version;
  if (goal !== state || isOtherGoal) {
    const which = `rollout ${id} of ${product} ${release.version}, now ${state}`;
    await confirm(`${act} ${which}: touches ${plural(touches, 'device')} (${what})`, yes);
  }
  const json = {
    ...(acknowledge && { acknowledge }),
    ...(target !== undefined && { target }),
    ...(to !== undefined && { to }),
  };
  return await origin.json(`${path}/${act}`, rolloutSchema, { method: 'POST', json });
}

async function showFailures(origin: OriginClient, id: string): Promise<void> {
  const status = await fetchRolloutStatus(origin, id);
  const { figures } = status;
  for (const line of describeFailures(status)) note(line);
  if (figures && figures.silent > 0) note(`${plural(figures.silent, 'device')} fell silent`);
}

function progressOf(act: OperatorAct, { stage, plan, attempt, rollbackTo }: Rollout): string {
  if (act === 'rollback') return rollbackTo ? ` to ${rollbackTo.version}` : '';
  if (act === 'advance') return `, in stage ${stage + 1} of ${plan.stages.length}`;
  return act === 'retry' ? `, in attempt ${attempt}` : '';
}
