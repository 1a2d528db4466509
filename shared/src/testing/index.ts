export { POINT_STEP } from './points.ts';
export { randomFrom } from './random.ts';
export { until } from './until.ts';
