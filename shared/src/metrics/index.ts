export { buildInfo, readCounter, readGauge, type Samples } from './read-metrics.ts';
