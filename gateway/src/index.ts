export { gatewayProgram } from './program.ts';
