export { replaceLog } from './failing-log.ts';
export { MemoryStore } from './memory-store.ts';
