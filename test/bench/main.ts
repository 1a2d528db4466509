// Runs benchmarks by name: npm run bench -- NAME… ; without a name it lists them.
import type { Benchmark } from './benchmark.ts';
import { CannotMeasure, printTable } from './benchmark.ts';
import { chunkingBenchmark } from './chunking.ts';
import { deltaBenchmark } from './delta.ts';
import { deltaSiteBenchmark } from './delta-site.ts';
import { fleetBenchmark } from './fleet.ts';
import { originBenchmark } from './origin.ts';
import { pauseBenchmark } from './pause.ts';
import { publishBenchmark, publishMemoryBenchmark } from './publish.ts';
import { gatewayServingBenchmark } from './gateway-serving.ts';
import { gossipBenchmark } from './gossip.ts';
import { installBenchmark, installMemoryBenchmark } from './install.ts';
import { neighbourBenchmark } from './neighbour.ts';
import { peerServingBenchmark } from './peer-serving.ts';
import { siteBenchmark } from './site.ts';
import { uploadBenchmark } from './upload.ts';
import { uploadMemoryBenchmark } from './upload-memory.ts';

const BENCHMARKS: readonly Benchmark[] = [
  chunkingBenchmark,
  uploadBenchmark,
  uploadMemoryBenchmark,
  publishBenchmark,
  publishMemoryBenchmark,
  originBenchmark,
  gatewayServingBenchmark,
  peerServingBenchmark,
  gossipBenchmark,
  neighbourBenchmark,
  installBenchmark,
  installMemoryBenchmark,
  fleetBenchmark,
  pauseBenchmark,
  siteBenchmark,
  deltaBenchmark,
  deltaSiteBenchmark,
];

const names = process.argv.slice(2);
const unknown = names.filter(name => !BENCHMARKS.some(benchmark => benchmark.name === name));

if (names.length === 0 || unknown.length > 0) {
  for (const name of unknown) process.stderr.write(`no benchmark is called ${name}\n`);
  for (const { name, what } of BENCHMARKS) process.stdout.write(`${name.padEnd(16)} ${what}\n`);
  process.exitCode = unknown.length > 0 ? 2 : 0;
} else {
  for (const benchmark of BENCHMARKS.filter(({ name }) => names.includes(name))) {
    process.stdout.write(`\n${benchmark.name}: ${benchmark.what}\n`);
    try {
      printTable(await benchmark.run());
    } catch (error) {
      if (!(error instanceof CannotMeasure)) throw error;
      process.stderr.write(`${error.message}\n`);
      process.exitCode = 1;
    }
  }
}
