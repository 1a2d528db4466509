// Sets all times of all inodes of an ext4 image to one time: mkfs.ext4 -d of e2fsprogs 1.47 takes ctime and atime from the machine that it
// runs on.
// usage: delta-ext4.js IMAGE SECONDS
import { open } from 'node:fs/promises';

const SUPERBLOCK_AT = 1024;
const WIDE_GROUPS = 0x80;
const METADATA_CSUM = 0x400;

const [path = '', seconds = ''] = process.argv.slice(2);
const file = await open(path, 'r+');
const read = async (offset: number, lengthBytes: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(lengthBytes);
  await file.read(bytes, 0, lengthBytes, offset);
  return bytes;
};
try {
  const superblock = await read(SUPERBLOCK_AT, 1024);
  const blockBytes = 1024 << superblock.readUInt32LE(24);
  const inodesPerGroup = superblock.readUInt32LE(40);
  const inodeBytes = superblock.readUInt16LE(88);
  const groupBytes = (superblock.readUInt32LE(96) & WIDE_GROUPS) === 0 ? 32 : superblock.readUInt16LE(254);
  if ((superblock.readUInt32LE(100) & METADATA_CSUM) !== 0)
    throw new Error(`${path} has checksums of its inodes`);
  const groups = Math.ceil(superblock.readUInt32LE(4) / superblock.readUInt32LE(32));
  const descriptors = await read(blockBytes === 1024 ? 2048 : blockBytes, groups * groupBytes);
  for (let group = 0; group < groups; group++) {
    const at = group * groupBytes;
    const high = groupBytes >= 64 ? descriptors.readUInt32LE(at + 40) : 0;
    const tableAt = (descriptors.readUInt32LE(at + 8) + high * 2 ** 32) * blockBytes;
    const table = await read(tableAt, inodesPerGroup * inodeBytes);
    for (let inode = 0; inode < table.length; inode += inodeBytes)
      setTimes(table.subarray(inode, inode + inodeBytes));
    await file.write(table, 0, table.length, tableAt);
  }
} finally {
  await file.close();
}

/** atime, ctime, mtime, crtime, without fractions of seconds; and the generation, which is random. */
function setTimes(inode: Buffer): void {
  if (inode.every(byte => byte === 0)) return;
  for (const at of [8, 12, 16]) inode.writeUInt32LE(Number(seconds), at);
  inode.writeUInt32LE(0, 100);
  if (inode.length < 160) return;
  inode.fill(0, 132, 144);
  inode.writeUInt32LE(Number(seconds), 144);
  inode.writeUInt32LE(0, 148);
}
