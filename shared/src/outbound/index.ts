export { Connections } from './connections.ts';
export { noAnswer } from './failure.ts';
export type { Pool } from './pool.ts';
export { type Answer, send, type Sending } from './send.ts';
