import { runProgram } from '@sitecast/shared/command';
import { agentProgram } from './program.ts';

process.exitCode = await runProgram(agentProgram(), process.argv.slice(2));
