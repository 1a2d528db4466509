import { createHash } from 'node:crypto';
import { lruCache } from '@sitecast/shared/bounded';
import { MAX_CHUNK_BYTES, MAX_FRAME_BYTES, verifyFrame } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { FileRef, OpenFile, RepositoryStore } from '../../repository/repository-store.ts';
import { maxBytesOf } from '../../repository/roles.ts';
import { parsedRoot } from '../../repository/committed.ts';
import { isUnreadable } from './errors.ts';
import type { DiskFile, Files } from './files.ts';
import { fileOf } from './layout.ts';

/** Files that were read and found right, with what tells that they are still the same. */
const MAX_VERIFIED = 200_000;
/** A disk may spoil bytes without a trace in the file's times. */
const BELIEVED_MS = 24 * 3_600_000;
/** Checked at one time: a stranger may ask for anything that is published. */
const MAX_CHECKS = 4;
/** Tries while the file is replaced as it is read. */
const MAX_TRIES = 5;

interface Known {
  stamp: string;
  isRight: boolean;
  atMs: number;
}

type Opener = Pick<RepositoryStore, 'open'>;
type Opened = Awaited<ReturnType<Opener['open']>>;

/**
 * Opens published files that are what their names say. Each is read and hashed before it is first sent, again when the file
 * has changed, and again after a day.
 */
export class VerifiedFiles implements Opener {
  readonly #files: Pick<Files, 'open'>;
  readonly #now: () => number;
  /** The file that was checked the longest ago is forgotten first. */
  readonly #known = lruCache<string, Known>({ max: MAX_VERIFIED });
  readonly #checking = new Map<string, Promise<void>>();
  readonly #limit = pLimit(MAX_CHECKS);
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES);

  constructor(files: Pick<Files, 'open'>, now: () => number) {
    this.#files = files;
    this.#now = now;
  }

  async open(ref: FileRef): Promise<Opened> {
    const path = fileOf(ref);
    const check = this.#checkOf(ref);
    let hasFoundDamage = false;
    for (let tries = 0; tries < MAX_TRIES; tries += 1) {
      const file = await this.#files.open(path);
      if (!file) break;
      if (!check) return toOpenFile(file);
      const known = this.#known.peek(path);
      if (known?.stamp === file.stamp && Math.abs(this.#now() - known.atMs) < BELIEVED_MS) {
        if (known.isRight) return toOpenFile(file);
        file.close();
        break;
      }
      file.close();
      const verify = async () => {
        hasFoundDamage = !(await this.#verify(path, check));
      };
      await this.#once(path, () => this.#limit(verify));
    }
    return hasFoundDamage ? 'damaged' : 'missing';
  }

  /** @returns false if the file is there and wrong */
  async #verify(path: string, isRight: (file: DiskFile) => Promise<boolean>): Promise<boolean> {
    const file = await this.#files.open(path);
    if (!file) return true;
    const { stamp } = file;
    const known = { stamp, isRight: await isRight(file), atMs: this.#now() };
    this.#known.set(path, known);
    return known.isRight;
  }

  #once(path: string, check: () => Promise<void>): Promise<void> {
    const underWay = this.#checking.get(path);
    if (underWay) return underWay;
    const checking = check().finally(() => this.#checking.delete(path));
    this.#checking.set(path, checking);
    return checking;
  }

  /** @returns undefined for metadata that only other metadata vouches for */
  #checkOf(ref: FileRef): ((file: DiskFile) => Promise<boolean>) | undefined {
    switch (ref.kind) {
      case 'chunk':
        return file => this.#isChunk(file, ref.id);
      case 'target':
        return file => hasHash(file, ref.sha256);
      default:
        return ref.role === 'root' ? file => isRoot(file, ref.version) : undefined;
    }
  }

  async #isChunk(file: DiskFile, id: Uint8Array): Promise<boolean> {
    const frame = await readAtMost(file, MAX_FRAME_BYTES);
    if (!frame) return false;
    try {
      verifyFrame(id, frame, this.#scratch);
      return true;
    } catch (error) {
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }
}

/** The tag is made of time and length, as a plain web server makes it. */
function toOpenFile({ modifiedMs, stamp: _stamp, ...file }: DiskFile): OpenFile {
  return { ...file, tag: `${Math.round(modifiedMs * 1000).toString(16)}-${file.lengthBytes.toString(16)}` };
}

async function isRoot(file: DiskFile, version: number): Promise<boolean> {
  const bytes = await readAtMost(file, maxBytesOf('root'));
  return bytes !== undefined && parsedRoot(bytes, version) !== undefined;
}

/** In small pieces: an index may be long. */
async function hasHash(file: DiskFile, sha256: string): Promise<boolean> {
  if (file.lengthBytes === 0) {
    file.close();
    return false;
  }
  const hash = createHash('sha256');
  try {
    for await (const piece of file.stream(0, file.lengthBytes)) hash.update(piece);
  } catch (error) {
    if (isUnreadable(error)) return false;
    throw error;
  }
  return hash.digest('hex') === sha256;
}

async function readAtMost(file: DiskFile, maxBytes: number): Promise<Buffer | undefined> {
  if (file.lengthBytes > maxBytes || file.lengthBytes === 0) {
    file.close();
    return undefined;
  }
  try {
    return await file.read(0, file.lengthBytes);
  } catch (error) {
    if (isUnreadable(error)) return undefined;
    throw error;
  }
}

/** How much of what was read last stays in memory. */
export const MAX_HOT_BYTES = 64 * 1024 * 1024;
/** A longer file would push out too many others. */
const MAX_HOT_FILE_BYTES = 2 * 1024 * 1024;
/** Published files don't change. But a file that the disk has spoilt is replaced, and the right one must be seen some day. */
const HOT_MS = 10 * 60_000;

interface HotFile {
  bytes: Buffer<ArrayBuffer>;
  tag: string;
  readAtMs: number;
}

/**
 * Keeps published files in memory for a while: when a rollout begins, the gateways of many sites ask for the same chunks
 * within minutes, and opening, reading and allocating costs several times what sending does.
 */
export class HotFiles implements Opener {
  readonly #inner: Opener;
  readonly #now: () => number;
  readonly #hot = lruCache<string, HotFile>({
    maxBytes: MAX_HOT_BYTES,
    bytesOf: ({ bytes }) => bytes.length,
  });

  constructor(inner: Opener, now: () => number) {
    this.#inner = inner;
    this.#now = now;
  }

  async open(ref: FileRef): Promise<Opened> {
    const path = fileOf(ref);
    const known = this.#hot.get(path);
    if (known && Math.abs(this.#now() - known.readAtMs) < HOT_MS) return fromMemory(known);
    this.#hot.delete(path);
    const file = await this.#inner.open(ref);
    if (typeof file === 'string' || file.lengthBytes > MAX_HOT_FILE_BYTES) return file;
    return {
      ...file,
      read: async (start, lengthBytes) => {
        const bytes = await file.read(start, lengthBytes);
        const hot = { bytes, tag: file.tag, readAtMs: this.#now() };
        if (bytes.length === file.lengthBytes) this.#hot.set(path, hot);
        return bytes;
      },
    };
  }
}

function fromMemory({ bytes, tag }: HotFile): OpenFile {
  const part = (start: number, lengthBytes: number) => bytes.subarray(start, start + lengthBytes);
  return {
    lengthBytes: bytes.length,
    tag,
    close: () => {},
    read: async (start, lengthBytes) => part(start, lengthBytes),
    stream: (start, lengthBytes) =>
      new ReadableStream({
        start(controller) {
          controller.enqueue(part(start, lengthBytes));
          controller.close();
        },
      }),
  };
}
