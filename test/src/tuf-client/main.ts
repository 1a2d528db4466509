import { readFileBounded } from '@sitecast/shared/durable';
import { DEFAULT_TRUST_LIMITS } from '@sitecast/shared/trust';
import { downloadTargets, initialise, refresh } from './commands.ts';
import { parseCommandLine } from './command-line.ts';

try {
  const command = parseCommandLine(process.argv.slice(2));
  switch (command.name) {
    case 'init':
      await initialise(
        command.metadataDirectory,
        await readFileBounded(command.rootFile, DEFAULT_TRUST_LIMITS.maxRootBytes),
      );
      break;
    case 'refresh':
      await refresh(command);
      break;
    case 'download':
      await downloadTargets(command);
      break;
  }
} catch (error) {
  process.stderr.write(`${describe(error)}\n`);
  process.exitCode = 1;
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error ? `${String(error.code)}: ` : '';
  const data = 'data' in error ? ` ${JSON.stringify(error.data)}` : '';
  const cause = error.cause === undefined ? '' : `\n  because ${describe(error.cause)}`;
  return `${code}${error.message}${data}${cause}`;
}
