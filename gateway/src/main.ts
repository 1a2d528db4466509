import { runProgram } from '@sitecast/shared/command';
import { gatewayProgram } from './program.ts';

process.exitCode = await runProgram(gatewayProgram(), process.argv.slice(2));
