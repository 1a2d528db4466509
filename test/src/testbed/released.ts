import { spawn } from 'node:child_process';
import { readFile, mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { brotliDecompress } from 'node:zlib';

const TOP = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Unpacks the commands that were released at commit 51397eb.
 * @param into a directory that isn't there yet
 * @returns where their bin stubs lie
 */
export async function unpackReleased(into: string): Promise<string> {
  await mkdir(into);
  const packed = await readFile(join(TOP, 'test/fixtures/released-51397eb.tar.br'));
  const tar = spawn('tar', ['-x', '-C', into], { stdio: ['pipe', 'ignore', 'inherit'] });
  tar.stdin.end(await promisify(brotliDecompress)(packed));
  const exitCode = await new Promise<number | null>(resolve => tar.once('exit', resolve));
  if (exitCode !== 0) throw new Error(`tar exited ${exitCode}`);
  // Their native modules are the checkout's.
  await symlink(join(TOP, 'node_modules'), join(into, 'node_modules'));
  return join(into, 'bin');
}
