export { replaceLog } from './failing-log.ts';
export { type StoreUnderTest, testKeyValueStore } from './conformance.ts';
export { MemoryStore } from './memory-store.ts';
