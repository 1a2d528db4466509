import { SettingsCommand } from '@sitecast/shared/command';

/** The `sitecast-agent` command. It has no subcommands yet: README says what is there today. */
export function agentProgram(): SettingsCommand {
  return new SettingsCommand('sitecast-agent')
    .description(
      'Keeps one device up to date: fetches, verifies, installs to the inactive slot, confirms or falls back.',
    )
    .action((_options, command: SettingsCommand) => {
      command.help();
    });
}
