import { spawnSync } from 'node:child_process';
import { SitecastError } from '../errors.ts';
import type { StreamEncoder } from './patch.ts';

/** What a test gets of a run: `done`, or the code of its error. Any other error is no answer. */
export function codeOf(run: () => unknown): string {
  try {
    run();
    return 'done';
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

/** A `.bz2` file. */
export function bzip2(plain: Uint8Array, level = 9): Buffer {
  return outputOf('bzip2', [`-${level}`, '-c'], plain);
}

/** A byte of properties, and the raw LZMA stream with its end marker. */
export function lzma(
  plain: Uint8Array,
  [lc, lp, pb]: readonly [lc: number, lp: number, pb: number] = [3, 0, 0],
): Buffer {
  const filter = `--lzma1=preset=6,lc=${lc},lp=${lp},pb=${pb},dict=${Math.max(4096, plain.length)}`;
  const stream = outputOf('xz', ['--format=raw', filter, '-c'], plain);
  return Buffer.concat([Buffer.of((pb * 5 + lp) * 9 + lc), stream]);
}

/** The system's programs as a maker's encoders. */
export const SYSTEM_ENCODERS: readonly StreamEncoder[] = [
  { codec: 'bzip2', encode: plain => bzip2(plain) },
  { codec: 'lzma', encode: plain => lzma(plain) },
];

function outputOf(program: string, args: string[], input: Uint8Array): Buffer {
  const { stdout, status, stderr } = spawnSync(program, args, { input, maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(String(stderr));
  return stdout;
}
