import { join } from 'node:path';
import type { Benchmark, Row } from './benchmark.ts';
import { inScratch, writeRandomFile } from './scratch.ts';
import { upload } from './upload-run.ts';

const IMAGES_MIB = [64, 256, 1024];
const MIB = 2 ** 20;

export const uploadMemoryBenchmark: Benchmark = {
  name: 'upload-memory',
  what: "the sender's peak memory for small and large images: equal within 16 MiB",
  run: () =>
    inScratch(async directory => {
      const rows: Row[] = [];
      let first = 0;
      for (const mebibytes of IMAGES_MIB) {
        const image = join(directory, `image-${mebibytes}`);
        await writeRandomFile(image, mebibytes);
        const { peakRssBytes } = await upload(image, join(directory, `store-${mebibytes}`));
        if (first === 0) first = peakRssBytes;
        rows.push({
          'image MiB': mebibytes,
          'peak MiB': (peakRssBytes / MIB).toFixed(1),
          'more MiB': ((peakRssBytes - first) / MIB).toFixed(1),
        });
      }
      return rows;
    }),
};
