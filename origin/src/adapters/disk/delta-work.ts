import type { DeltaName } from '@sitecast/shared/release';
import { z } from 'zod';
import type { DeltaWork, FinishedWindow, KeptWindow } from '../../deltas/delta-work.ts';
import { type DeltaJob, deltaJobSchema } from '../../deltas/job.ts';
import { errorFields, type Log } from '../../log.ts';
import { sha256Hex } from '../../repository/committed.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';
import { DELTAS } from './layout.ts';

const JOBS = `${DELTAS}/jobs.json`;
const MAX_JOBS_BYTES = 8 * 1024 * 1024;
/** A window's patch is at most 4 MiB. */
const MAX_WINDOW_BYTES = 5 * 1024 * 1024;
const HEAD_LENGTH_BYTES = 4;
const MAX_HEAD_BYTES = 4096;
const WINDOW_NAME = /^(.+-from-\d+)\.\d{1,9}\.window$/;
const PRIVATE = 0o600;

const jobsSchema = z.object({ format: z.literal('sitecast-delta-jobs-1'), jobs: z.array(deltaJobSchema) });

const headSchema = z.object({
  firstChunk: z.int(),
  chunkCount: z.int(),
  targetOffset: z.int(),
  targetLength: z.int(),
  baseOffset: z.int(),
  baseLength: z.int(),
  frameBytes: z.int(),
  /** SHA-256 of the patch; absent where there is none. */
  sha256: z.string().exactOptional(),
});

/** `deltas/jobs.json`, and a file for each finished window of the deltas that are being made: its head as JSON, then its patch. */
export class DiskDeltaWork implements DeltaWork {
  readonly #files: Files;
  readonly #log: Log;

  constructor(files: Files, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  async jobs(): Promise<DeltaJob[]> {
    const bytes = await readOrUndefined(this.#files, JOBS, MAX_JOBS_BYTES);
    try {
      return bytes ? jobsSchema.parse(JSON.parse(bytes.toString('utf8'))).jobs : [];
    } catch (error) {
      this.#log.error({ ...errorFields(error), file: JOBS }, 'this file is damaged: deltas are made anew');
      return [];
    }
  }

  async saveJobs(jobs: readonly DeltaJob[]): Promise<void> {
    await this.#files.writeDurably(
      JOBS,
      Buffer.from(JSON.stringify({ format: 'sitecast-delta-jobs-1', jobs })),
      PRIVATE,
    );
  }

  async windows(delta: DeltaName): Promise<FinishedWindow[]> {
    const kept: FinishedWindow[] = [];
    for await (const { name } of this.#files.list(DELTAS)) {
      if (stemOf(name) !== stem(delta)) continue;
      const window = await this.#read(`${DELTAS}/${name}`);
      if (!window) continue;
      const { patch, ...place } = window;
      kept.push({ ...place, patchLength: patch?.length });
    }
    return kept;
  }

  async patch(delta: DeltaName, firstChunk: number): Promise<Buffer | undefined> {
    return (await this.#read(pathOf(delta, firstChunk)))?.patch;
  }

  async keepWindow(delta: DeltaName, { patch, ...place }: KeptWindow): Promise<void> {
    const text = Buffer.from(JSON.stringify({ ...place, ...(patch && { sha256: sha256Hex(patch) }) }));
    const length = Buffer.alloc(HEAD_LENGTH_BYTES);
    length.writeUInt32LE(text.length);
    const bytes = Buffer.concat([length, text, ...(patch ? [patch] : [])]);
    await this.#files.writeDurably(pathOf(delta, place.firstChunk), bytes, PRIVATE);
  }

  async makeRoomFor(delta: DeltaName, maxOtherBytes: number): Promise<void> {
    const others = new Map<string, { paths: string[]; lengthBytes: number; newestMs: number }>();
    for await (const { name, lengthBytes, modifiedMs } of this.#files.list(DELTAS)) {
      const found = stemOf(name);
      if (found === undefined || found === stem(delta)) continue;
      const other = others.get(found) ?? { paths: [], lengthBytes: 0, newestMs: 0 };
      other.paths.push(`${DELTAS}/${name}`);
      other.lengthBytes += lengthBytes;
      other.newestMs = Math.max(other.newestMs, modifiedMs);
      others.set(found, other);
    }
    let allBytes = [...others.values()].reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    for (const other of [...others.values()].sort((one, two) => one.newestMs - two.newestMs)) {
      if (allBytes <= maxOtherBytes) return;
      for (const path of other.paths) await this.#files.remove(path);
      allBytes -= other.lengthBytes;
    }
  }

  async forgetOthers(kept: readonly DeltaName[]): Promise<void> {
    const stems = new Set(kept.map(stem));
    for await (const { name } of this.#files.list(DELTAS)) {
      const found = stemOf(name);
      if (found !== undefined && !stems.has(found)) await this.#files.remove(`${DELTAS}/${name}`);
    }
  }

  async #read(path: string): Promise<KeptWindow | undefined> {
    const bytes = await readOrUndefined(this.#files, path, MAX_WINDOW_BYTES);
    return bytes && decodeWindow(bytes);
  }
}

const stem = ({ product, from, to }: DeltaName): string => `${product}-${to}-from-${from}`;

const pathOf = (delta: DeltaName, firstChunk: number): string =>
  `${DELTAS}/${stem(delta)}.${firstChunk}.window`;

/** The delta that a window's file belongs to; undefined for other files. */
function stemOf(name: string): string | undefined {
  return WINDOW_NAME.exec(name)?.[1];
}

function decodeWindow(bytes: Buffer): KeptWindow | undefined {
  if (bytes.length < HEAD_LENGTH_BYTES) return undefined;
  const length = bytes.readUInt32LE(0);
  const patchAt = HEAD_LENGTH_BYTES + length;
  if (length > MAX_HEAD_BYTES || patchAt > bytes.length) return undefined;
  try {
    const { sha256, ...head } = headSchema.parse(
      JSON.parse(bytes.subarray(HEAD_LENGTH_BYTES, patchAt).toString('utf8')),
    );
    const patch = bytes.subarray(patchAt);
    if (sha256 === undefined) return patch.length === 0 ? { ...head, patch: undefined } : undefined;
    return sha256Hex(patch) === sha256 ? { ...head, patch } : undefined;
  } catch {
    // Damaged: it is made again.
    return undefined;
  }
}
