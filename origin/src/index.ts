export { type RunningOrigin, startOrigin } from './main.ts';
