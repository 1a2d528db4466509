export { originProgram } from './program.ts';
