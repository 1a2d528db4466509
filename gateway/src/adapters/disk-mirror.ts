import { createHash } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  diskFull,
  makeDirectory,
  readFileBounded,
  removePartials,
  writeFileDurably,
} from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { DEFAULT_TRUST_LIMITS, parseStrictJson } from '@sitecast/shared/trust';
import { z } from 'zod';
import type { MirrorStore, StoredTarget } from '../mirror/mirror-store.ts';

const MAX_LIST_BYTES = 64 * 1024;
const ROOT_FILE = /^([1-9]\d{0,15})\.root\.json$/;

const listSchema = z.strictObject({
  format: z.literal('sitecast-mirror-1'),
  /** SHA-256 of its bytes, which is its file name, by the name under which it is served. */
  files: z.record(z.string().max(256), z.string().regex(/^[0-9a-f]{64}$/)),
});

/**
 * The mirror's files. Metadata lies in `metadata/` under the hash of its bytes and never changes. `set.json` names the files that belong
 * together, and is the only file that is replaced.
 *
 * ```
 * set.json   metadata/SHA256   roots/N.root.json   targets/FOLDER/SHA256.NAME
 * ```
 */
export class DiskMirror implements MirrorStore {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(directory: string): Promise<DiskMirror> {
    for (const name of ['metadata', 'roots', 'targets']) await makeDirectory(join(directory, name));
    for (const folder of ['', 'metadata', 'roots']) await removePartials(join(directory, folder));
    for (const folder of await readdir(join(directory, 'targets')))
      await removePartials(join(directory, 'targets', folder));
    return new DiskMirror(directory);
  }

  async loadSet(): Promise<Map<string, Uint8Array> | undefined> {
    const list = await this.#read('set.json', MAX_LIST_BYTES);
    const parsed = list && listSchema.safeParse(parseOrUndefined(list));
    if (parsed?.success !== true) return undefined;
    const files = new Map<string, Uint8Array>();
    for (const [name, sha256] of Object.entries(parsed.data.files)) {
      const bytes = await this.#read(join('metadata', sha256), DEFAULT_TRUST_LIMITS.maxTargetsBytes);
      if (bytes === undefined) return undefined;
      files.set(name, bytes);
    }
    return files;
  }

  async saveSet(files: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const names: Record<string, string> = {};
    for (const [name, bytes] of files) {
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      names[name] = sha256;
      const path = join('metadata', sha256);
      const found = await this.#read(path, DEFAULT_TRUST_LIMITS.maxTargetsBytes);
      // A damaged file is written again.
      if (found === undefined || Buffer.compare(found, bytes) !== 0) await this.#write(path, bytes);
    }
    await this.#write('set.json', `${JSON.stringify({ format: 'sitecast-mirror-1', files: names })}\n`);
    const kept = new Set(Object.values(names));
    for (const name of await readdir(join(this.#directory, 'metadata'))) {
      if (!kept.has(name)) await rm(join(this.#directory, 'metadata', name), { force: true });
    }
  }

  async loadRoots(): Promise<Map<number, Uint8Array>> {
    const roots = new Map<number, Uint8Array>();
    for (const name of await readdir(join(this.#directory, 'roots'))) {
      const version = Number(ROOT_FILE.exec(name)?.[1]);
      const bytes = Number.isSafeInteger(version)
        ? await this.#read(join('roots', name), DEFAULT_TRUST_LIMITS.maxRootBytes)
        : undefined;
      if (bytes !== undefined) roots.set(version, bytes);
    }
    return roots;
  }

  async saveRoot(version: number, bytes: Uint8Array): Promise<void> {
    await this.#write(join('roots', `${version}.root.json`), bytes);
  }

  async readTarget(path: string, maxBytes: number): Promise<Uint8Array | undefined> {
    return this.#read(join('targets', path), maxBytes);
  }

  async writeTarget(path: string, bytes: Uint8Array): Promise<void> {
    const target = join('targets', path);
    await makeDirectory(join(this.#directory, dirname(target)));
    await this.#write(target, bytes);
  }

  async removeTarget(path: string): Promise<void> {
    await rm(join(this.#directory, 'targets', path), { force: true });
  }

  async listTargets(): Promise<StoredTarget[]> {
    const found: StoredTarget[] = [];
    for (const folder of await readdir(join(this.#directory, 'targets'))) {
      for (const name of await readdir(join(this.#directory, 'targets', folder))) {
        const { size, mtimeMs } = await stat(join(this.#directory, 'targets', folder, name));
        found.push({ path: `${folder}/${name}`, lengthBytes: size, modifiedMs: mtimeMs });
      }
    }
    return found;
  }

  async #read(path: string, maxBytes: number): Promise<Uint8Array | undefined> {
    try {
      return await readFileBounded(join(this.#directory, path), maxBytes);
    } catch (error) {
      // A file that is missing, unreadable or no file at all is fetched again.
      if (isSystemError(error, 'ENOENT', 'EIO', 'EISDIR', 'ENOTDIR')) return undefined;
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  async #write(path: string, bytes: Uint8Array | string): Promise<void> {
    try {
      await writeFileDurably(join(this.#directory, path), bytes);
    } catch (error) {
      if (!isSystemError(error, 'ENOSPC', 'EDQUOT')) throw error;
      throw diskFull('gateway', this.#directory, { cause: error });
    }
  }
}

function parseOrUndefined(bytes: Uint8Array): unknown {
  try {
    return parseStrictJson(bytes);
  } catch {
    // A damaged list counts as none.
    return undefined;
  }
}
