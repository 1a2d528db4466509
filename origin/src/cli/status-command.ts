import { SettingsCommand } from '@sitecast/shared/command';
import { clockWarning } from './origin/clocks.ts';
import { formatBytes, note, print, printJson, table } from './output.ts';
import { fetchPresence, presenceWarnings } from './presence-view.ts';
import { type RepositoryStatus, repositoryStatus } from './origin/repository-api.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

export function statusCommand(): SettingsCommand {
  return addOriginOptions(
    new SettingsCommand('status').description(
      "show the repository's roles, their versions and expiry, silent gateways, and what else needs attention",
    ),
  )
    .option('--json', 'print one JSON object')
    .action(async (options: OriginOptions & { json?: boolean }) => {
      const origin = await connect(options);
      const status = await repositoryStatus(origin);
      const clocks = await clockWarning(origin);
      const presence = await fetchPresence(origin);
      if (clocks !== undefined) note(`warning: ${clocks}`);
      if (options.json) {
        printJson({ ...status, ...(presence && { presence }) });
        return;
      }
      if (!status.initialised) {
        print(`${origin.url.href} has no repository yet: found one with \`sitecast init\``);
        for (const { message } of status.warnings) note(`warning: ${message}`);
        return;
      }
      const roles = Object.keys(status.versions);
      print(
        table(
          ['ROLE', 'VERSION', 'EXPIRES'],
          roles.map(role => [role, String(status.versions[role] ?? '-'), status.expires[role] ?? '-']),
        ),
      );
      if (status.reports) print(['', reportsText(status.reports)]);
      for (const { message } of status.warnings) note(`warning: ${message}`);
      if (!presence) return;
      const { heard, silent, untold } = presence.gateways;
      print(`gateways: ${heard} heard, ${silent} silent, ${untold} that do not tell`);
      for (const message of presenceWarnings(presence)) note(`warning: ${message}`);
    });
}

function reportsText({ keptBytes, maxKeptBytes, dropped }: NonNullable<RepositoryStatus['reports']>): string {
  const older = dropped === 0 ? '' : `; ${dropped} older ones made way`;
  return `devices' reports: ${formatBytes(keptBytes)} kept, of ${formatBytes(maxKeptBytes)}${older}`;
}
