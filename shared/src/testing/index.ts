export { POINT_STEP } from './points.ts';
export { until } from './until.ts';
