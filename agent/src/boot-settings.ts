import type { SettingsCommand } from '@sitecast/shared/command';
import { Option } from 'commander';
import type { SlotName } from './ports.ts';

const BOOT_KINDS: [string, ...string[]] = ['file', 'command', 'grub', 'uboot'];
const DEFAULT_GRUBENV = '/boot/grub/grubenv';
const DEFAULT_FW_CONFIG = '/etc/fw_env.config';
const DEFAULT_REBOOT = 'reboot';

/** How slots are switched. */
export type BootSettings =
  | {
      kind: 'file';
      path: string | undefined;
      firstSlot: SlotName;
      /** True: nothing asks for this kind. */
      isImplied?: true;
    }
  | { kind: 'command'; command: string }
  | { kind: 'grub'; grubenv: string; rebootCommand: string }
  | { kind: 'uboot'; fwConfig: string; scheme: 'boot-order' | 'bootcount'; rebootCommand: string };

/** @param isKindNeeded false: `--boot` alone leaves the kind to configuration file and environment */
export function addBootOptions(command: SettingsCommand, { isKindNeeded = true } = {}): void {
  const kind = isKindNeeded ? '--boot <kind>' : '--boot [kind]';
  command
    .addOption(
      new Option(
        kind,
        'how slots are switched (docs/BOOT.md); default: file, which boots nothing, and is refused where slots are block devices',
      ).choices(BOOT_KINDS),
    )
    .option('--boot-file <file>', 'state of boot control `file` (default: boot.json in --data)')
    .option('--boot-command <command>', 'program of boot control `command`; gets a verb (docs/BOOT.md)')
    .addOption(preset('--boot-grubenv <file>', 'environment block of `grub`', DEFAULT_GRUBENV))
    .addOption(preset('--boot-fw-config <file>', 'where the environment of `uboot` lies', DEFAULT_FW_CONFIG))
    .addOption(
      choice(
        '--boot-variables <which>',
        'variables of `uboot`: BOOT_ORDER and BOOT_A_LEFT, or U-Boot counts',
        ['boot-order', 'bootcount'],
      ),
    )
    .addOption(
      preset('--reboot-command <command>', 'boots the machine, with `grub` and `uboot`', DEFAULT_REBOOT),
    )
    .addOption(choice('--first-slot <slot>', 'what runs before the first update, with `file`', ['A', 'B']));
  command.on('option:boot', () => {
    if (command.getOptionValue('boot') === true)
      command.setOptionValueWithSource('boot', undefined, 'default');
  });
}

/** The first choice is the default. */
function choice(flags: string, description: string, choices: [string, ...string[]]): Option {
  return new Option(flags, description).choices(choices).default(choices[0]);
}

function preset(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value);
}

interface BootValues {
  filled(name: string): string | undefined;
  /** @throws SITECAST_SETTING_MISSING */
  needed(name: string): string;
}

/** @throws SITECAST_SETTING_MISSING */
export function bootSettings(values: BootValues): BootSettings {
  const rebootCommand = values.filled('rebootCommand') ?? DEFAULT_REBOOT;
  const kind = values.filled('boot');
  switch (kind) {
    case 'command':
      return { kind: 'command', command: values.needed('bootCommand') };
    case 'grub':
      return { kind: 'grub', grubenv: values.filled('bootGrubenv') ?? DEFAULT_GRUBENV, rebootCommand };
    case 'uboot': {
      const scheme = values.filled('bootVariables') === 'bootcount' ? 'bootcount' : 'boot-order';
      return {
        kind: 'uboot',
        fwConfig: values.filled('bootFwConfig') ?? DEFAULT_FW_CONFIG,
        scheme,
        rebootCommand,
      };
    }
    default:
      return {
        kind: 'file',
        path: values.filled('bootFile'),
        firstSlot: values.filled('firstSlot') === 'B' ? 'B' : 'A',
        ...(kind === undefined && !isMeantForFile(values) && { isImplied: true }),
      };
  }
}

/** Settings that only boot control `file` goes by. */
function isMeantForFile(values: BootValues): boolean {
  return values.filled('bootFile') !== undefined || values.filled('payloadCommand') !== undefined;
}
