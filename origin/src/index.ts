export { operatorProgram } from './cli/program.ts';
export { type RunningOrigin, startOrigin } from './main.ts';
export { originProgram } from './program.ts';
