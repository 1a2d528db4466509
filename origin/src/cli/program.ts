import { CA_OPTION, limitSettings, SettingsCommand } from '@sitecast/shared/command';
import { auditCommand } from './audit-command.ts';
import { initCommand } from './init-command.ts';
import { keysRenewCommand, keysRotateCommand } from './keys/renew-command.ts';
import { keysCreateCommand, keysListCommand } from './keys/create-command.ts';
import { memberAcceptCommand } from './member/accept-command.ts';
import {
  memberListCommand,
  memberNameCommand,
  memberRevokeCommand,
  memberShowCommand,
  memberTagCommand,
} from './member/member-command.ts';
import { productFloorCommand, productListCommand } from './product-command.ts';
import { releaseSignCommand, releaseSubmitCommand } from './release/sign-command.ts';
import { releaseDeltasCommand } from './release/deltas-command.ts';
import { releaseListCommand, releaseShowCommand } from './release/list-command.ts';
import { releaseWithdrawCommand } from './release/withdraw-command.ts';
import { releaseDraftCommand, releasePublishCommand } from './release/publish-command.ts';
import { rolloutActCommands } from './rollout/act-command.ts';
import { rolloutListCommand, rolloutStatusCommand } from './rollout/status-command.ts';
import { rolloutStartCommand } from './rollout/start-command.ts';
import { statusCommand } from './status-command.ts';
import { tokenCreateCommand, tokenListCommand, tokenRevokeCommand } from './token/token-command.ts';

/** Settings that the environment and sitecast.yaml may give. All other options concern one act, and are given with it. */
const SETTINGS: ReadonlySet<string> = new Set([
  '--origin <url>',
  '--token <token>',
  '--token-file <file>',
  CA_OPTION[0],
  '--root <file>',
  '--state <dir>',
  '--keys <dir>',
  '--passphrase-file <file>',
  '--config <file>',
]);

/** The `sitecast` command. */
export function operatorProgram(): SettingsCommand {
  const program = new SettingsCommand('sitecast')
    .description('Publish signed releases to a Sitecast origin, and roll them out.')
    .addCommand(
      group(
        'keys',
        "operators' keys, and the keys of all roles",
        keysCreateCommand(),
        keysListCommand(),
        keysRenewCommand(),
        keysRotateCommand(),
      ),
    )
    .addCommand(initCommand())
    .addCommand(releaseGroup())
    .addCommand(
      group('product', 'what is signed of a product as a whole', productListCommand(), productFloorCommand()),
    )
    .addCommand(rolloutGroup())
    .addCommand(memberGroup('device', 'the devices of the fleet'))
    .addCommand(memberGroup('gateway', "the sites' gateways"))
    .addCommand(
      group(
        'token',
        'API tokens of the origin, and join tokens of the fleet',
        tokenCreateCommand(),
        tokenListCommand(),
        tokenRevokeCommand(),
      ),
    )
    .addCommand(auditCommand())
    .addCommand(statusCommand())
    .addHelpText(
      'after',
      `
Getting started, beside a running \`sitecast-origin serve --data origin-data\`:
  sitecast keys create root && sitecast keys create release
  sitecast init --origin http://127.0.0.1:7400 --token-file origin-data/admin.token
  sitecast release publish rootfs.ext4 --product camera --version 1.0.0 --hardware rpi4
  sitecast release list

Then bring in gateways and devices, and roll out to them:
  sitecast token create --join --kind gateway --site north --out north.token
  sitecast token create --join --kind device --product camera --uses 20 --out cameras.token
  sitecast rollout start camera 1.0.0 --all-at-once && sitecast rollout status --watch`,
    );
  limitSettings(program, SETTINGS);
  return program;
}

function releaseGroup(): SettingsCommand {
  return group(
    'release',
    'signed releases of a product',
    releasePublishCommand(),
    releaseListCommand(),
    releaseShowCommand(),
    releaseWithdrawCommand(),
    releaseDeltasCommand(),
    releaseDraftCommand(),
    releaseSignCommand(),
    releaseSubmitCommand(),
  );
}

function rolloutGroup(): SettingsCommand {
  return group(
    'rollout',
    'which devices are to run which release',
    rolloutStartCommand(),
    rolloutStatusCommand(),
    rolloutListCommand(),
    ...rolloutActCommands(),
  );
}

function memberGroup(kind: 'device' | 'gateway', description: string): SettingsCommand {
  return group(
    kind,
    description,
    memberListCommand(kind),
    memberShowCommand(kind),
    memberAcceptCommand(kind),
    memberNameCommand(kind),
    memberTagCommand(kind),
    memberRevokeCommand(kind),
  );
}

function group(name: string, description: string, ...commands: SettingsCommand[]): SettingsCommand {
  const command = new SettingsCommand(name).description(description);
  for (const subcommand of commands) command.addCommand(subcommand);
  return command;
}
