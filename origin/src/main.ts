import { runProgram } from '@sitecast/shared/command';
import { originProgram } from './program.ts';

process.exitCode = await runProgram(originProgram(), process.argv.slice(2));
