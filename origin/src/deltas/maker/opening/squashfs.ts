import { type ByteSource, NotOpened, readInside } from './byte-source.ts';
import { MAX_PIECES } from './piece-map.ts';
import { codecOf, type SquashfsCodec } from './squashfs-codec.ts';
import { eachDataBlock } from './squashfs-inodes.ts';

// squashfs 4.0, after Linux' Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h. All numbers are little-endian.
const MAGIC = 0x73717368;
const SUPERBLOCK_BYTES = 96;
const HAS_OPTIONS = 0x400;
const NO_TABLE = 2n ** 64n - 1n;
const METADATA_BYTES = 8192;
const STORED_METADATA = 0x8000;
const STORED_BLOCK = 2 ** 24;
/** The bound on the inode table and the fragment table, which are read into memory. */
const MAX_TABLE_BYTES = 64 * 1024 * 1024;
/** How many metadata blocks may be short, in tables that are read one after the other. Only the last block of a table should be. */
const MAX_SHORT_BLOCKS = 16;

/** A compressed piece that a table of the squashfs lists. Its plain length is known only when it's opened. */
export interface ListedPiece {
  readonly offset: number;
  readonly length: number;
  readonly maxPlainLength: number;
}

/** A squashfs and how it was compressed. */
export interface SquashfsPieces {
  readonly codec: SquashfsCodec;
  readonly pieces: ListedPiece[];
}

/** The fields of the superblock that are needed. */
interface Superblock {
  readonly inodes: number;
  readonly blockBytes: number;
  readonly fragments: number;
  readonly ids: number;
  readonly tables: {
    readonly [Name in 'id' | 'xattr' | 'inode' | 'directory' | 'fragment' | 'export']: number | undefined;
  };
}

/**
 * Finds the compressed pieces of a squashfs: blocks of data, fragments, metadata. Stored blocks are no pieces.
 * @returns undefined where the source isn't a squashfs, or is one that can't be opened here
 * @throws NotOpened where it's malformed
 */
export async function readSquashfs(source: ByteSource): Promise<SquashfsPieces | undefined> {
  if (source.sizeBytes < SUPERBLOCK_BYTES) return undefined;
  const head = viewOf(await source.read(0, SUPERBLOCK_BYTES));
  if (head.getUint32(0, true) !== MAGIC || head.getUint16(28, true) !== 4 || head.getUint16(30, true) !== 0)
    return undefined;
  const hasOptions = (head.getUint16(24, true) & HAS_OPTIONS) !== 0;
  const options = hasOptions ? await readOptions(source) : undefined;
  const codec = codecOf(head.getUint16(20, true), options);
  if (codec === undefined) return undefined;
  return { codec, pieces: await new SquashfsReader(source, codec, superblockOf(head)).list() };
}

function superblockOf(head: DataView): Superblock {
  const table = (at: number): number | undefined => {
    const offset = head.getBigUint64(at, true);
    return offset === NO_TABLE ? undefined : Number(offset);
  };
  const blockBytes = head.getUint32(12, true);
  if (blockBytes < 4096 || blockBytes > 2 ** 20 || (blockBytes & (blockBytes - 1)) !== 0) {
    throw new NotOpened(`blocks of ${blockBytes} bytes`);
  }
  return {
    inodes: head.getUint32(4, true),
    blockBytes,
    fragments: head.getUint32(16, true),
    ids: head.getUint16(26, true),
    tables: {
      id: table(48),
      xattr: table(56),
      inode: table(64),
      directory: table(72),
      fragment: table(80),
      export: table(88),
    },
  };
}

async function readOptions(source: ByteSource): Promise<DataView> {
  const length =
    viewOf(await readInside(source, SUPERBLOCK_BYTES, 2)).getUint16(0, true) & (STORED_METADATA - 1);
  return viewOf(await readInside(source, SUPERBLOCK_BYTES + 2, length));
}

class SquashfsReader {
  readonly #source: ByteSource;
  readonly #codec: SquashfsCodec;
  readonly #head: Superblock;
  readonly #pieces = new Map<number, ListedPiece>();

  constructor(source: ByteSource, codec: SquashfsCodec, head: Superblock) {
    this.#source = source;
    this.#codec = codec;
    this.#head = head;
  }

  async list(): Promise<ListedPiece[]> {
    const { tables, inodes, ids, fragments, blockBytes } = this.#head;
    const { inode, directory, id } = tables;
    if (inode === undefined || directory === undefined || id === undefined)
      throw new NotOpened('a table is missing');
    const ends: number[] = [id];
    if (fragments > 0 && tables.fragment !== undefined)
      ends.push(await this.#fragments(tables.fragment, fragments));
    if (tables.export !== undefined) ends.push((await this.#lookup(tables.export, inodes * 8)).first);
    ends.push((await this.#lookup(id, ids * 4)).first);
    if (tables.xattr !== undefined) ends.push(await this.#xattrs(tables.xattr));
    await this.#blocks(directory, Math.min(...ends.filter(end => end >= directory)), false);
    const table = await this.#blocks(inode, directory, true);
    for (const { offset, size } of eachDataBlock(table, inodes, blockBytes)) this.#addBlock(offset, size);
    return [...this.#pieces.values()];
  }

  /** Adds a block of data or a fragment. `size` has a bit for a stored block. */
  #addBlock(offset: number, size: number): void {
    if (size > 0 && size < STORED_BLOCK) this.#add(offset, size, this.#head.blockBytes);
  }

  #add(offset: number, length: number, maxPlainLength: number): void {
    if (offset < SUPERBLOCK_BYTES || offset + length > this.#source.sizeBytes) {
      throw new NotOpened(`a piece of ${length} bytes at ${offset}`);
    }
    const known = this.#pieces.get(offset);
    // A block that can't be compressed is stored, so none is longer.
    if (length > maxPlainLength)
      throw new NotOpened(`a piece of ${length} bytes for at most ${maxPlainLength}`);
    // Files with the same content share blocks.
    if (known !== undefined && known.length !== length) throw new NotOpened(`two pieces at ${offset}`);
    if (this.#pieces.size === MAX_PIECES) throw new NotOpened(`more than ${MAX_PIECES} pieces`);
    this.#pieces.set(offset, { offset, length, maxPlainLength });
  }

  async #fragments(offset: number, count: number): Promise<number> {
    const { bytes, first } = await this.#lookup(offset, count * 16);
    const view = viewOf(bytes);
    for (let at = 0; at < count * 16; at += 16) {
      this.#addBlock(Number(view.getBigUint64(at, true)), view.getUint32(at + 8, true) % (2 * STORED_BLOCK));
    }
    return first;
  }

  /** Extended attributes: their blocks, then a table of where each inode's begin. @returns where the first of these blocks is */
  async #xattrs(offset: number): Promise<number> {
    const head = viewOf(await readInside(this.#source, offset, 16));
    const { first } = await this.#lookup(offset + 16, head.getUint32(8, true) * 16);
    const start = Number(head.getBigUint64(0, true));
    await this.#blocks(start, first, false);
    return Math.min(start, first);
  }

  /** A table of fixed-length entries. At `offset` there is a list of its metadata blocks. */
  async #lookup(offset: number, tableBytes: number): Promise<{ bytes: Uint8Array; first: number }> {
    if (tableBytes > MAX_TABLE_BYTES) throw new NotOpened(`a table of ${tableBytes} bytes`);
    const count = Math.ceil(tableBytes / METADATA_BYTES);
    const list = viewOf(await readInside(this.#source, offset, count * 8));
    const parts: Uint8Array[] = [];
    let first = offset;
    for (let at = 0; at < count; at++) {
      const block = Number(list.getBigUint64(at * 8, true));
      first = Math.min(first, block);
      parts.push((await this.#block(block)).plain);
    }
    const bytes = Buffer.concat(parts);
    if (bytes.length < tableBytes) throw new NotOpened('a table is cut off');
    return { bytes, first };
  }

  /** Reads consecutive metadata blocks; joins their content with `areWanted`. */
  async #blocks(from: number, to: number, areWanted: boolean): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let [total, short] = [0, 0];
    for (let at = from; at < to; ) {
      const { plain, end } = await this.#block(at);
      at = end;
      total += plain.length;
      // Only the last block of a table may be short: blocks of one byte would cost a thousand times what they hold.
      if (plain.length < METADATA_BYTES) short += 1;
      if (short > MAX_SHORT_BLOCKS)
        throw new NotOpened(`more than ${MAX_SHORT_BLOCKS} short metadata blocks`);
      if (total > MAX_TABLE_BYTES) throw new NotOpened(`a table of more than ${MAX_TABLE_BYTES} bytes`);
      if (areWanted) parts.push(plain);
    }
    return Buffer.concat(parts);
  }

  async #block(offset: number): Promise<{ plain: Uint8Array; end: number }> {
    const head = viewOf(await readInside(this.#source, offset, 2)).getUint16(0, true);
    const length = head % STORED_METADATA === 0 ? STORED_METADATA : head % STORED_METADATA;
    const bytes = await readInside(this.#source, offset + 2, length);
    const end = offset + 2 + length;
    if (head >= STORED_METADATA) return { plain: bytes, end };
    this.#add(offset + 2, length, METADATA_BYTES);
    return { plain: this.#codec.decode(bytes, METADATA_BYTES), end };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
