import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const NEEDED = ['losetup', 'mount', 'umount', 'addpart', 'partx', 'mke2fs'];
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

/** Runs a system program and gives its output. */
function system(program: string, ...args: string[]): string {
  return execFileSync(program, args, { stdio: 'pipe', env: { ...process.env, PATH } })
    .toString()
    .trim();
}

/**
 * Why this machine has no loop devices to test with; undefined where it has.
 * @throws in CI, where they have to be there
 */
export function whyNoLoopDevices(): string | undefined {
  const directory = mkdtempSync(join(tmpdir(), 'sitecast-loop-'));
  try {
    for (const program of NEEDED) execFileSync('sh', ['-c', `command -v ${program}`], { env: { PATH } });
    const backing = join(directory, 'backing');
    writeFileSync(backing, '');
    truncateSync(backing, 64 * 1024);
    system('losetup', '--detach', system('losetup', '--find', '--show', backing));
    return undefined;
  } catch (error) {
    const why = `skipped: loop devices need root and ${NEEDED.join(', ')} (${String(error).split('\n')[0]})`;
    if (process.env.CI) throw new Error(why, { cause: error });
    process.stderr.write(`${why}\n`);
    return why;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Loop devices, partitions and mounts of a test; `release` takes away all of them. */
export class LoopDevices {
  readonly #undo: (() => void)[] = [];

  /** @param backing a file (or device) that is there already @returns the device's path */
  attach(backing: string, ...part: string[]): string {
    const device = system('losetup', '--find', '--show', ...part, backing);
    this.#undo.push(() => system('losetup', '--detach', device));
    return device;
  }

  /** A new backing file of so many bytes, and a device of it. */
  create(backing: string, lengthBytes: number): string {
    writeFileSync(backing, '');
    truncateSync(backing, lengthBytes);
    return this.attach(backing);
  }

  /** An ext2 file system. */
  format(device: string): void {
    system('mke2fs', '-q', '-F', '-t', 'ext2', device);
  }

  mount(...args: string[]): void {
    const directory = args.at(-1) ?? '';
    system('mount', ...args);
    this.#undo.push(() => system('umount', directory));
  }

  unmount(directory: string): void {
    system('umount', directory);
  }

  /** Two partitions of a quarter each, as the kernel knows them. @returns their paths */
  partition(device: string, lengthBytes: number): [string, string] {
    const quarter = Math.floor(lengthBytes / 512 / 4);
    for (const [number, start] of [
      [1, quarter],
      [2, 2 * quarter],
    ] as const) {
      system('addpart', device, String(number), String(start), String(quarter));
    }
    this.#undo.push(() => system('partx', '--delete', device));
    return [`${device}p1`, `${device}p2`];
  }

  release(): void {
    for (const undo of this.#undo.splice(0).toReversed()) {
      try {
        undo();
      } catch {
        // The test itself has done it.
      }
    }
  }
}
