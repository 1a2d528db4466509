import { createHash } from 'node:crypto';
import { chunkIdFromHex, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, verifyFrame } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { OpenFile, ReadableFiles } from '../storage/files.ts';
import { isUnreadable } from '../storage/unreadable.ts';
import { maxBytesOf } from './committed.ts';
import { parsedRoot } from './published-files.ts';

/** Files that were read and found right, with what tells that they are still the same. */
const MAX_VERIFIED = 200_000;
/** A disk may spoil bytes without a trace in the file's times. */
const BELIEVED_MS = 24 * 3_600_000;
/** Checked at one time: a stranger may ask for anything that is published. */
const MAX_CHECKS = 4;
/** Tries where the file is replaced while it's read, or brought back. */
const MAX_TRIES = 5;

const CHUNK = /^repository\/chunks\/[0-9a-f]{4}\/([0-9a-f]{64})\.cacnk$/;
const TARGET = /^repository\/targets\/[a-z]+\/([0-9a-f]{64})\.[^/]+$/;
const ROOT = /^repository\/metadata\/([1-9]\d{0,15})\.root\.json$/;

interface VerifiedFilesDeps {
  inner: ReadableFiles;
  /** Told of a file whose bytes aren't those that were published; it's to be looked at again, and set aside. */
  onDamaged: (path: string) => void;
  /** Told of a file that isn't there, though its name could be a published one's. @returns whether it was brought back */
  onMissing?: (path: string) => Promise<boolean>;
  now: () => number;
}

interface Known {
  stamp: string;
  isRight: boolean;
  atMs: number;
}

/**
 * Hands out published files that are what their names say: each is read and hashed before it's first sent, again when the file
 * has changed, and again after a day. A damaged one isn't there.
 */
export class VerifiedFiles implements ReadableFiles {
  readonly #deps: VerifiedFilesDeps;
  /** In the order in which they were checked. */
  readonly #known = new Map<string, Known>();
  readonly #checking = new Map<string, Promise<void>>();
  readonly #turn = pLimit(MAX_CHECKS);
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES);

  constructor(deps: VerifiedFilesDeps) {
    this.#deps = deps;
  }

  async open(path: string): Promise<OpenFile | undefined> {
    const check = this.#checkOf(path);
    let wasMissed = false;
    for (let tries = 0; tries < MAX_TRIES; tries += 1) {
      const file = await this.#deps.inner.open(path);
      if (!file && check && !wasMissed) {
        wasMissed = true;
        if (await this.#isBack(path)) continue;
      }
      if (!file || !check) return file;
      const known = this.#known.get(path);
      if (known?.stamp === file.stamp && Math.abs(this.#deps.now() - known.atMs) < BELIEVED_MS) {
        if (known.isRight) return file;
        file.close();
        if (wasMissed || !(await this.#isBack(path))) return undefined;
        wasMissed = true;
        continue;
      }
      file.close();
      await this.#once(path, () => this.#turn(() => this.#verify(path, check)));
    }
    return undefined;
  }

  async #isBack(path: string): Promise<boolean> {
    return (await this.#deps.onMissing?.(path)) === true;
  }

  async #verify(path: string, isRight: (file: OpenFile) => Promise<boolean>): Promise<void> {
    const file = await this.#deps.inner.open(path);
    if (!file) return;
    const { stamp } = file;
    const known = { stamp, isRight: await isRight(file), atMs: this.#deps.now() };
    this.#known.delete(path);
    this.#known.set(path, known);
    if (this.#known.size > MAX_VERIFIED) {
      const [oldest] = this.#known.keys();
      if (oldest !== undefined) this.#known.delete(oldest);
    }
    if (!known.isRight) this.#deps.onDamaged(path);
  }

  #once(path: string, check: () => Promise<void>): Promise<void> {
    const underWay = this.#checking.get(path);
    if (underWay) return underWay;
    const checking = check().finally(() => this.#checking.delete(path));
    this.#checking.set(path, checking);
    return checking;
  }

  /** @returns undefined for a file of which its name says nothing */
  #checkOf(path: string): ((file: OpenFile) => Promise<boolean>) | undefined {
    const chunk = CHUNK.exec(path)?.[1];
    if (chunk !== undefined) return file => this.#isChunk(file, chunkIdFromHex(chunk));
    const target = TARGET.exec(path)?.[1];
    if (target !== undefined) return file => hasHash(file, target);
    const root = ROOT.exec(path)?.[1];
    return root === undefined ? undefined : file => isRoot(file, Number(root));
  }

  async #isChunk(file: OpenFile, id: Uint8Array): Promise<boolean> {
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

async function isRoot(file: OpenFile, version: number): Promise<boolean> {
  const bytes = await readAtMost(file, maxBytesOf('root'));
  return bytes !== undefined && parsedRoot(bytes, version) !== undefined;
}

/** In small pieces: an index may be long. */
async function hasHash(file: OpenFile, sha256: string): Promise<boolean> {
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

async function readAtMost(file: OpenFile, maxBytes: number): Promise<Buffer | undefined> {
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
