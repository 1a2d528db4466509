/**
 * Scarce resources, shared among many unverified senders: memory, connections, places in a queue, rates. A pool and a queue follow one
 * rule: no sender is refused for what others hold.
 */
export { ByteBudget } from './byte-budget.ts';
export { ByteWindow } from './byte-window.ts';
export { FairPool, type FairPoolOptions, type Lease } from './fair-pool.ts';
export { FairQueue, type FairQueueOptions } from './fair-queue.ts';
export { NamedHosts, senderOf } from './hosts.ts';
export { lruCache, type LruCache } from './lru-cache.ts';
export { Pacer } from './pacer.ts';
export { RefusalLimit } from './refusal-limit.ts';
export { type Rate, TokenBucket, TokenBuckets } from './token-bucket.ts';
