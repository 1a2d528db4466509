// Loaded into a measured command by `node --import`: writes its peak resident memory, in bytes, when it exits.
import { readFileSync, writeFileSync } from 'node:fs';
import { peakRssOf } from './process-status.ts';

process.on('exit', () => {
  const path = process.env.SITECAST_BENCH_PEAK;
  if (path !== undefined) writeFileSync(path, String(peakRssOf(readFileSync('/proc/self/status', 'utf8'))));
});
