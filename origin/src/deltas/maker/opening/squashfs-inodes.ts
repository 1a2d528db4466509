import { NotOpened } from './byte-source.ts';

/** squashfs_fs.h: kinds of inodes, basic and extended. */
const DIRECTORY = 1;
const FILE = 2;
const LINK = 3;
const LONG_DIRECTORY = 8;
const LONG_FILE = 9;
const LONG_LINK = 10;
/** Bytes after the common head, for kinds of inodes without lists: devices, pipes, sockets. */
const PLAIN_KINDS = new Map([
  [4, 8],
  [5, 8],
  [6, 4],
  [7, 4],
  [11, 12],
  [12, 12],
  [13, 8],
  [14, 8],
]);
const HEAD_BYTES = 16;
const NO_FRAGMENT = 0xffffffff;
const STORED_BLOCK = 2 ** 24;
const LONGEST_NAME = 65_536;

/** A block of a file: its place, and its length with the bit for a stored block. */
interface DataBlock {
  readonly offset: number;
  readonly size: number;
}

/** Lists the data blocks of an inode table. @throws NotOpened where it's malformed */
export function* eachDataBlock(table: Uint8Array, inodes: number, blockBytes: number): Generator<DataBlock> {
  const view = new InodeView(table);
  let at = 0;
  for (let inode = 0; inode < inodes; inode++) {
    const kind = view.uint16(at);
    at += HEAD_BYTES;
    const plainBytes = PLAIN_KINDS.get(kind);
    if (plainBytes !== undefined) at += plainBytes;
    else if (kind === DIRECTORY) at += 16;
    else if (kind === LINK) at += 8 + view.length(at + 4);
    else if (kind === LONG_LINK) at += 12 + view.length(at + 4);
    else if (kind === LONG_DIRECTORY) at = endOfLongDirectory(view, at);
    else if (kind === FILE || kind === LONG_FILE) at = yield* fileBlocks(view, at, kind, blockBytes);
    else throw new NotOpened(`an inode of kind ${kind}`);
  }
}

function endOfLongDirectory(view: InodeView, from: number): number {
  let at = from + 24;
  for (let left = view.uint16(from + 16); left > 0; left--) at += 12 + view.length(at + 8) + 1;
  return at;
}

function* fileBlocks(
  view: InodeView,
  from: number,
  kind: number,
  blockBytes: number,
): Generator<DataBlock, number> {
  const isLong = kind === LONG_FILE;
  let offset = isLong ? view.uint64(from) : view.uint32(from);
  const sizeBytes = isLong ? view.uint64(from + 8) : view.uint32(from + 12);
  const fragment = view.uint32(isLong ? from + 28 : from + 4);
  const blocks = sizeBytes / blockBytes;
  const count = fragment === NO_FRAGMENT ? Math.ceil(blocks) : Math.floor(blocks);
  let at = from + (isLong ? 40 : 16);
  for (let block = 0; block < count; block++, at += 4) {
    const size = view.uint32(at) % (2 * STORED_BLOCK);
    yield { offset, size };
    offset += size % STORED_BLOCK;
  }
  return at;
}

/** Reads numbers of a table. Throws `NotOpened` beyond its end. */
class InodeView {
  readonly #view: DataView;

  constructor(table: Uint8Array) {
    this.#view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  }

  uint16(at: number): number {
    return this.#inside(at, 2).getUint16(at, true);
  }

  uint32(at: number): number {
    return this.#inside(at, 4).getUint32(at, true);
  }

  uint64(at: number): number {
    const value = Number(this.#inside(at, 8).getBigUint64(at, true));
    if (value > Number.MAX_SAFE_INTEGER) throw new NotOpened(`a number of ${value}`);
    return value;
  }

  /** Reads the length of a name. */
  length(at: number): number {
    const length = this.uint32(at);
    if (length > LONGEST_NAME) throw new NotOpened(`a name of ${length} bytes`);
    return length;
  }

  #inside(at: number, length: number): DataView {
    if (at + length > this.#view.byteLength) throw new NotOpened('the inode table is cut off');
    return this.#view;
  }
}
