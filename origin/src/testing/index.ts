export { TestMember } from './device.ts';
export { batchOf, imageOf, TestOperator } from './operator.ts';
export { type SpawnedOrigin, spawnOrigin } from './spawned.ts';
