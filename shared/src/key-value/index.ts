export {
  type Loss,
  lostError,
  openInSpiteOfLoss,
  openLevelStore,
  type OpenOptions,
} from './open.ts';
export type { Owner } from './errors.ts';
export { Keyspace } from './keyspace.ts';
export { freeBytesAt } from './level.ts';
export { LevelStore } from './level-store.ts';
export { type Repaired, repairLevel } from './repair.ts';
export {
  type Change,
  type DatabaseState,
  keyAfter,
  type KeyRange,
  type KeyValueStore,
  startingWith,
} from './store.ts';
