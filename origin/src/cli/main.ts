import { homedir } from 'node:os';
import { join } from 'node:path';
import { runProgram } from '@sitecast/shared/command';
import { operatorProgram } from './program.ts';

const configHome = process.env.XDG_CONFIG_HOME ?? join(homedir(), '.config');

process.exitCode = await runProgram(operatorProgram(), process.argv.slice(2), {
  // `rollout status --watch | head` has nobody left to show anything to.
  closedOutput: 'exit',
  configFiles: ['sitecast.yaml', join(configHome, 'sitecast', 'sitecast.yaml')],
});
