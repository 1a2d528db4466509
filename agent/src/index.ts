export { agentProgram } from './program.ts';
