export { buildInfo, readCounter, readFailure, readGauge, type Samples } from './read-metrics.ts';
