import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const MIB = 2 ** 20;

/** Lends a directory to a benchmark and deletes it afterwards. */
export async function inScratch<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-bench-'));
  try {
    return await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * Writes a file of random, and so incompressible, bytes.
 * @param seed the same seed gives the same bytes
 */
export async function writeRandomFile(path: string, mebibytes: number, seed?: string): Promise<void> {
  const key = seed === undefined ? randomBytes(32) : createHash('sha256').update(seed).digest();
  const cipher = createCipheriv('aes-128-ctr', key.subarray(0, 16), key.subarray(16));
  const zeros = Buffer.alloc(MIB);
  const file = await open(path, 'wx');
  try {
    for (let written = 0; written < mebibytes; written++) await file.writeFile(cipher.update(zeros));
    await file.sync();
  } finally {
    await file.close();
  }
}
