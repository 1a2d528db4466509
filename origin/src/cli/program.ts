import { SettingsCommand } from '@sitecast/shared/command';

/** The `sitecast` command: what an operator types. */
export function operatorProgram(): SettingsCommand {
  return new SettingsCommand('sitecast')
    .description('Publish signed releases and roll them out to a fleet.')
    .action((_options, command: SettingsCommand) => {
      command.help();
    });
}
