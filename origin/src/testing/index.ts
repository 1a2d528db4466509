export { TestMember } from './device.ts';
export { batchOf, imageOf, TestOperator } from './operator.ts';
export { OriginReplay } from './power-cut-replay.ts';
export { type SpawnedOrigin, spawnOrigin } from './spawned.ts';
