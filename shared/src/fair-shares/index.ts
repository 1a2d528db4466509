/**
 * How what there is little of is shared among many, of whom nobody has vouched for most: memory, connections, places in a queue.
 * One idea in all of it: nobody is refused for what others hold.
 */
export { FairPool, type FairPoolOptions, type Lease } from './fair-pool.ts';
export { FairQueue, type FairQueueOptions } from './fair-queue.ts';
export { NamedHosts, senderOf } from './hosts.ts';
