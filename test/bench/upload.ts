import { join } from 'node:path';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';
import { type Spent, timeProgram } from './process.ts';
import { inScratch, writeRandomFile } from './scratch.ts';
import { upload } from './upload-run.ts';

const IMAGE_MIB = 256;
const ROUNDS = 5;
/** Set this to the path of a real image to measure it instead of random bytes. */
const imagePath = process.env.SITECAST_BENCH_IMAGE;

export const uploadBenchmark: Benchmark = {
  name: 'upload',
  what: `an image (${imagePath ?? `${IMAGE_MIB} MiB, random`}) to another process on loopback, against casync make && sync`,
  run: () =>
    inScratch(async directory => {
      const image = imagePath ?? join(directory, 'image');
      if (imagePath === undefined) await writeRandomFile(image, IMAGE_MIB);
      const uploads: Awaited<ReturnType<typeof upload>>[] = [];
      const casyncs: Spent[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        casyncs.push(await casyncMake(image, join(directory, `casync-${round}`)));
        uploads.push(await upload(image, join(directory, `upload-${round}`)));
      }
      const casyncWall = median(casyncs.map(({ wallMs }) => wallMs));
      const casyncCpu = median(casyncs.map(({ cpuMs }) => cpuMs));
      const row = (what: string, wallMs: number, cpuMs: number): Row => ({
        what,
        'wall ms': Math.round(wallMs),
        'of casync': ratio(wallMs, casyncWall),
        'CPU ms': Math.round(cpuMs),
        'CPU of casync': ratio(cpuMs, casyncCpu),
      });
      const cpuMs = median(uploads.map(one => one.cpuMs + one.receiver.cpuMs));
      return [
        row('casync make && sync', casyncWall, casyncCpu),
        row('upload + sync, the processes included', median(uploads.map(one => one.processMs)), cpuMs),
        row('upload + sync', median(uploads.map(one => one.wallMs)), cpuMs),
        row('  the sender', median(uploads.map(one => one.sentMs)), median(uploads.map(one => one.cpuMs))),
        row(
          '  the receiver',
          median(uploads.map(one => one.sentMs)),
          median(uploads.map(one => one.receiver.cpuMs)),
        ),
      ];
    }),
};

async function casyncMake(image: string, folder: string): Promise<Spent> {
  const sizes = '--chunk-size=16384:65536:262144';
  const make = `casync make --digest=sha256 ${sizes} --store=${folder}.castr ${folder}.caibx ${image} && sync -f ${folder}.castr`;
  return timeProgram('sh', '-c', make);
}
