import { createHash, randomBytes } from 'node:crypto';
import { chunkIdOf, ChunkCutter } from '@sitecast/shared/content';
import { type Benchmark, median, type Row, ratio } from './benchmark.ts';

const MIB = 2 ** 20;
const INPUT_MIB = 128;
const BLOCK_BYTES = 4 * MIB;
const ROUNDS = 5;

export const chunkingBenchmark: Benchmark = {
  name: 'chunking',
  what: `FastCDC and chunk ids of ${INPUT_MIB} MiB against SHA-256 by node:crypto in one thread (CPU time)`,
  run: async () => {
    const input = randomBytes(INPUT_MIB * MIB);
    const work: Record<string, (input: Buffer) => void> = {
      'SHA-256, all in one': hashAtOnce,
      FastCDC: cutOnly,
      'SHA-256 of each chunk': hashChunks,
      'FastCDC + chunk ids + SHA-256 of all': cutAndHash,
    };
    const speeds = new Map(Object.keys(work).map(what => [what, new Array<number>()]));
    // In turn, several times, so that other load on the machine affects all of them alike.
    for (let round = 0; round < ROUNDS; round++) {
      for (const [what, act] of Object.entries(work)) speeds.get(what)?.push(megabytesPerSecond(input, act));
    }
    const limit = median(speeds.get('SHA-256, all in one') ?? []);
    return [...speeds].map(
      ([what, figures]): Row => ({
        what,
        'MB/s': Math.round(median(figures)),
        'of SHA-256': ratio(median(figures), limit),
      }),
    );
  },
};

function megabytesPerSecond(input: Buffer, act: (input: Buffer) => void): number {
  const before = process.cpuUsage();
  act(input);
  const { user, system } = process.cpuUsage(before);
  return input.length / (user + system);
}

function hashAtOnce(input: Buffer): void {
  createHash('sha256').update(input).digest();
}

/** Where the chunks of the input end: found once, for measurements that only hash. */
let ends: number[] = [];

function cutOnly(input: Buffer): void {
  ends = [...chunksOf(input)];
}

function hashChunks(input: Buffer): void {
  let start = 0;
  for (const end of ends) {
    chunkIdOf(input.subarray(start, end));
    start = end;
  }
}

function cutAndHash(input: Buffer): void {
  const whole = createHash('sha256');
  let start = 0;
  for (const end of chunksOf(input)) {
    const chunk = input.subarray(start, end);
    chunkIdOf(chunk);
    whole.update(chunk);
    start = end;
  }
  whole.digest();
}

/** Ends of the chunks, found block by block as in reading a file. */
function* chunksOf(input: Buffer): Generator<number> {
  const cutter = new ChunkCutter();
  for (let start = 0; start < input.length; start += BLOCK_BYTES) {
    const to = Math.min(input.length, start + BLOCK_BYTES);
    for (let at = cutter.next(input, start, to); at !== -1; at = cutter.next(input, at, to)) yield at;
  }
  if (cutter.filledBytes > 0) yield input.length;
}
