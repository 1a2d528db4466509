export { operatorProgram } from './cli/program.ts';
export { type RunningOrigin, startOrigin } from './serve.ts';
export { originProgram } from './program.ts';
