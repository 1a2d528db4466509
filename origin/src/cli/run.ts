import { homedir } from 'node:os';
import { join } from 'node:path';
import { runProgram } from '@sitecast/shared/command';
import { operatorProgram } from './program.ts';

const configHome = process.env.XDG_CONFIG_HOME ?? join(homedir(), '.config');

/**
 * Runs one `sitecast` command, as the operator typed it.
 * @param options where it prints, if not to this process' own output
 * @returns the exit code; nothing is thrown
 */
export function runOperator(
  argv: readonly string[],
  options: Pick<NonNullable<Parameters<typeof runProgram>[2]>, 'streams' | 'closedOutput'> = {},
): Promise<number> {
  return runProgram(operatorProgram(), argv, {
    ...options,
    configFiles: ['sitecast.yaml', join(configHome, 'sitecast', 'sitecast.yaml')],
  });
}
