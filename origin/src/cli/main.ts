import { runProgram } from '@sitecast/shared/command';
import { operatorProgram } from './program.ts';

process.exitCode = await runProgram(operatorProgram(), process.argv.slice(2));
