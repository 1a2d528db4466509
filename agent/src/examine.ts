import { resolve } from 'node:path';
import { makeDirectory } from '@sitecast/shared/durable';
import { openBootControl } from './adapters/boot-controls.ts';
import { lockDirectory } from './adapters/directory-lock.ts';
import { machineFacts, type MachinePlaces } from './adapters/machine-facts.ts';
import { runCommand } from './adapters/run-command.ts';
import { systemClock } from './adapters/system-clock.ts';
import { checkBoot, type Finding } from './doctor/boot-check.ts';
import type { DoctorSettings } from './settings.ts';
import { durableFiles } from './state/durable-files.ts';

/** `sitecast-agent doctor` on this machine. @throws SITECAST_DATA_IN_USE where changes are to be ordered, and an agent runs */
export async function examine(
  { data, slots, boot }: DoctorSettings,
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
    });
    const found = await checkBoot(control, await machineFacts(paths, places), { isExercised });
    return [...said, ...found];
  } finally {
    await lock?.release();
  }
}
