export { choose } from '../decision/choose.ts';
export { type Memory, newMemory, type Reason } from '../decision/memory.ts';
