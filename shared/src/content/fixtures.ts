// For tests only: bytes, folders and the real casync.
import { execFile, execFileSync } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { isSystemError } from '../errors.ts';

/** Incompressible bytes, the same for the same seed: AES-128 in counter mode over zeros. */
export function noise(lengthBytes: number, seed: number | string): Buffer {
  const key = createHash('sha256').update(String(seed)).digest().subarray(0, 16);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(lengthBytes));
}

const directories: string[] = [];

/** A new directory; `removeTemporaryDirectories`, called in an `afterAll`, deletes it. */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-content-'));
  directories.push(directory);
  return directory;
}

export async function removeTemporaryDirectories(): Promise<void> {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true, force: true });
}

/** Runs a program to its end; rejects, with what it wrote to stderr, when it fails. */
export async function run(program: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(program, args, { maxBuffer: 2 ** 26 })).stdout;
}

/**
 * Skips a test, with the reason, where a program isn't installed. In CI (`CI` is set) it fails instead: there the
 * program belongs to the setup, and a skip would hide that the check no longer runs.
 */
export function needsProgram(
  context: { skip(note: string): void },
  program: string,
  ...probe: string[]
): void {
  try {
    execFileSync(program, probe, { stdio: 'ignore' });
  } catch (error) {
    if (!isSystemError(error, 'ENOENT')) throw error;
    if (process.env.CI) throw new Error(`${program} is not installed, and CI needs it`, { cause: error });
    context.skip(`${program} is not installed`);
  }
}

/** As `casync make` is told to work for Sitecast: ids are SHA-256, chunk sizes the default ones. */
export const CASYNC_MAKE = ['make', '--digest=sha256', '--chunk-size=16384:65536:262144'];
