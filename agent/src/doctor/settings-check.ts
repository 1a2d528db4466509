import type { Finding } from './findings.ts';

/** Facts about the settings that `doctor` has. */
export interface SettingsFacts {
  /** Why the kind of boot control can't be the one that was meant. */
  bootKindProblem: string | undefined;
  /** Whether anything is checked of a new slot before it is kept. */
  isHealthChecked: boolean;
  /** The watchdog that the agent is to feed, and what is wrong with it. Not opened: that would arm it. */
  watchdog: { path: string; problem: string | undefined } | undefined;
}

export const NO_HEALTH_CHECK =
  'nothing is checked of a new slot: each one that starts the agent is kept (--health-command, --health-check or --confirm-within)';

export function settingsFindings({ bootKindProblem, isHealthChecked, watchdog }: SettingsFacts): Finding[] {
  return [
    ...(bootKindProblem === undefined ? [] : [{ level: 'problem', text: bootKindProblem } as const]),
    ...(isHealthChecked ? [] : [{ level: 'warning', text: NO_HEALTH_CHECK } as const]),
    ...(watchdog ? [watchdogFinding(watchdog)] : []),
  ];
}

function watchdogFinding({ path, problem }: NonNullable<SettingsFacts['watchdog']>): Finding {
  return problem === undefined
    ? { level: 'ok', text: `--watchdog: ${path} is there, and the agent feeds it` }
    : { level: 'problem', text: `--watchdog: ${path} isn't fed: ${problem}` };
}
