import { resolve } from 'node:path';
import { makeDirectory } from '@sitecast/shared/durable';
import { openBootControl } from './adapters/boot-controls.ts';
import { lockDirectory } from './adapters/directory-lock.ts';
import { impliedBootProblem } from './adapters/implied-boot.ts';
import { loaderFacts } from './adapters/loader-facts.ts';
import { machineFacts, type MachinePlaces } from './adapters/machine-facts.ts';
import { runCommand } from './adapters/run-command.ts';
import { systemClock } from './adapters/system-clock.ts';
import { watchdogAt } from './adapters/watchdogs.ts';
import { checkBoot } from './doctor/boot-check.ts';
import type { Finding } from './doctor/findings.ts';
import { settingsFindings } from './doctor/settings-check.ts';
import type { DoctorSettings } from './settings.ts';
import { durableFiles } from './state/durable-files.ts';

/** `sitecast-agent doctor` on this machine. @throws SITECAST_DATA_IN_USE where changes are to be ordered, and an agent runs */
export async function examine(
  { data, slots, boot, isHealthChecked, watchdog }: DoctorSettings,
  { isExercised, stop, places }: { isExercised: boolean; stop: AbortSignal; places?: MachinePlaces },
): Promise<Finding[]> {
  const directory = resolve(data);
  if (isExercised) await makeDirectory(directory, 0o700);
  const lock = isExercised ? await lockDirectory(directory) : undefined;
  try {
    const paths = { A: resolve(slots.A), B: resolve(slots.B) };
    const said: Finding[] = [];
    const control = openBootControl(boot, {
      data: directory,
      slots: paths,
      files: durableFiles,
      context: {
        run: runCommand,
        clock: systemClock('auto'),
        log: (_level, text) => said.push({ level: 'warning', text }),
        stop,
      },
      afterBoot: async () => {},
      places,
    });
    const machine = await machineFacts(paths, places);
    const found = await checkBoot(control, machine, { isExercised, loader: await loaderFacts(boot) });
    const bootKindProblem = (await impliedBootProblem({ boot, slots: paths }))?.message;
    const about = settingsFindings({
      bootKindProblem,
      isHealthChecked,
      watchdog: watchdog === undefined ? undefined : await watchdogAt(watchdog),
    });
    return [...said, ...found, ...about];
  } finally {
    await lock?.release();
  }
}
