import { join } from 'node:path';
import type { BootSettings } from '../boot-settings.ts';
import type { BootControl, SlotName } from '../ports.ts';
import type { DurableFiles } from '../state/durable-files.ts';
import { bootedSlot } from './booted-slot.ts';
import type { VerbContext } from './boot-verb.ts';
import { CommandBootControl } from './command-boot.ts';
import { EnvironmentBootControl } from './environment-boot.ts';
import { FileBootControl } from './file-boot.ts';
import { GrubEnvironment, grubScheme } from './grub-boot.ts';
import { bootcountScheme, bootOrderScheme, UbootEnvironment } from './uboot-boot.ts';

interface BootControlOptions {
  /** The agent's own directory. */
  data: string;
  /** Paths of the slots. */
  slots: Readonly<Record<SlotName, string>>;
  files: DurableFiles;
  context: VerbContext;
  /** Called after each boot with the boot control `file`. */
  afterBoot: (booted: SlotName) => Promise<void>;
  /** Default: this machine's. */
  places?: { commandLineFile?: string; root?: string } | undefined;
}

/** The boot control that the settings ask for. */
export function openBootControl(
  settings: BootSettings,
  { data, slots, files, context, afterBoot, places }: BootControlOptions,
): BootControl {
  if (settings.kind === 'command') return new CommandBootControl(settings.command, context);
  if (settings.kind === 'file') {
    const { path, firstSlot } = settings;
    return new FileBootControl(path ?? join(data, 'boot.json'), { firstSlot, files, afterBoot });
  }
  const { rebootCommand } = settings;
  const common = { ...context, rebootCommand, bootedSlot: () => bootedSlot(slots, places) };
  if (settings.kind === 'grub')
    return new EnvironmentBootControl({
      ...common,
      environment: new GrubEnvironment(settings.grubenv),
      scheme: grubScheme,
    });
  return new EnvironmentBootControl({
    ...common,
    environment: new UbootEnvironment(settings.fwConfig, context),
    scheme: settings.scheme === 'bootcount' ? bootcountScheme : bootOrderScheme,
  });
}
