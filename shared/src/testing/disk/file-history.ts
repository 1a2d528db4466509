import type { Choice } from './choices.ts';

const SECTOR_BYTES = 512;

type FileChange = { at: number; lengthBytes: number } & (
  | { kind: 'write'; offset: number; bytes: Buffer }
  /** `isShorter`: it frees blocks. */
  | { kind: 'truncate'; isShorter: boolean }
);

/** What was written to a file, whatever its names. */
export class FileHistory {
  readonly #base: Buffer;
  readonly #changes: FileChange[] = [];
  #lengthBytes: number;

  constructor(base: Buffer) {
    this.#base = base;
    this.#lengthBytes = base.length;
  }

  write(at: number, offset: number, bytes: Buffer): void {
    this.#lengthBytes = Math.max(this.#lengthBytes, offset + bytes.length);
    this.#changes.push({ at, kind: 'write', offset, bytes, lengthBytes: this.#lengthBytes });
  }

  truncate(at: number, lengthBytes: number): void {
    this.#changes.push({ at, kind: 'truncate', isShorter: lengthBytes < this.#lengthBytes, lengthBytes });
    this.#lengthBytes = lengthBytes;
  }

  /**
   * Its bytes after a power cut.
   * @param cut the changes before this one were made
   * @param covered the changes before this one are durable
   */
  after(cut: number, covered: number, choice: Choice): Buffer {
    const changes = this.#changes.filter(({ at }) => at < cut);
    if (changes.length === 0) return this.#base;
    const places = changes.map(({ at }) => at);
    const synced = places.filter(at => at < covered).length;
    const file = choice.ofFile(synced, changes.length, places);
    const length = changes[file.length - 1]?.lengthBytes ?? this.#base.length;
    // Blocks that a truncation frees hold nothing that is seen later, and it is seen by all of the file.
    const cuts = changes.flatMap((change, at) => (isCut(change) ? [at + 1] : []));
    const from = Math.max(synced, ...cuts.filter(at => at <= file.length));
    const to = Math.min(changes.length, ...cuts.filter(at => at > file.length).map(at => at - 1));
    const bytes = this.#wholeAfter(changes.slice(0, from), Math.max(length, this.#longest(changes)));
    for (const [index, change] of changes.slice(from, to).entries())
      if (change.kind === 'write')
        writeSectors(bytes, change, sector => file.sector(sector, from, to) > from + index);
    return bytes.subarray(0, length);
  }

  #longest(changes: readonly FileChange[]): number {
    return Math.max(this.#base.length, ...changes.map(({ lengthBytes }) => lengthBytes));
  }

  /** With zeros behind its end. */
  #wholeAfter(changes: readonly FileChange[], roomBytes: number): Buffer {
    const bytes = Buffer.alloc(roomBytes);
    this.#base.copy(bytes);
    for (const change of changes)
      if (change.kind === 'write') change.bytes.copy(bytes, change.offset);
      else bytes.fill(0, change.lengthBytes);
    return bytes;
  }
}

const isCut = (change: FileChange): boolean => change.kind === 'truncate' && change.isShorter;

function writeSectors(
  into: Buffer,
  { offset, bytes }: { offset: number; bytes: Buffer },
  isKept: (sector: number) => boolean,
): void {
  const end = offset + bytes.length;
  for (let at = offset; at < end; ) {
    const sector = Math.floor(at / SECTOR_BYTES);
    const next = Math.min(end, (sector + 1) * SECTOR_BYTES);
    if (isKept(sector)) bytes.copy(into, at, at - offset, next - offset);
    at = next;
  }
}
