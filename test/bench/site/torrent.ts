import { createHash } from 'node:crypto';

const PIECE_BYTES = 256 * 1024;

/** A torrent file of one file (BEP 3). */
export function torrentOf(name: string, content: Buffer, announce: string): Buffer {
  const hashes: Buffer[] = [];
  for (let at = 0; at < content.length; at += PIECE_BYTES)
    hashes.push(
      createHash('sha1')
        .update(content.subarray(at, at + PIECE_BYTES))
        .digest(),
    );
  const pieces = Buffer.concat(hashes);
  const info = `d6:lengthi${content.length}e4:name${text(name)}12:piece lengthi${PIECE_BYTES}e6:pieces${pieces.length}:`;
  const head = `d8:announce${text(announce)}4:info`;
  return Buffer.concat([Buffer.from(head + info), pieces, Buffer.from('ee')]);
}

const text = (value: string): string => `${Buffer.byteLength(value)}:${value}`;
