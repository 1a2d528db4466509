import { SettingsCommand } from '@sitecast/shared/command';

/** The `sitecast-origin` command. */
export function originProgram(): SettingsCommand {
  return new SettingsCommand('sitecast-origin')
    .description('The origin: release repository, rollout controller, device registry, report sink.')
    .action((_options, command: SettingsCommand) => {
      command.help();
    });
}
