// For tests only.
export { EIGHT_ADDRESSES, Strangers } from './strangers.ts';
export { newIdentity, Nodes } from './nodes.ts';
export { MemoryStore } from './memory-store.ts';
