export { statusMetrics } from './status-metrics.ts';
export { tellMetrics } from './tell-metrics.ts';
