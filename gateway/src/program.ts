import { SettingsCommand } from '@sitecast/shared/command';

/** The `sitecast-gateway` command. It has no subcommands yet: README says what is there today. */
export function gatewayProgram(): SettingsCommand {
  return new SettingsCommand('sitecast-gateway')
    .description(
      "Caches and serves a site's updates: verified metadata and chunks, fetched over the WAN once.",
    )
    .action((_options, command: SettingsCommand) => {
      command.help();
    });
}
