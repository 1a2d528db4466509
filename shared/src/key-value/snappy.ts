/** The index block of the largest table that is checked stays far below this. */
const MAX_PLAIN_BYTES = 64 * 1024 * 1024;

/**
 * Snappy's raw format (google/snappy, format_description.txt), in which LevelDB compresses blocks. Its binding gives no access to blocks.
 * @returns undefined for bytes of another format
 */
export function uncompressSnappy(bytes: Buffer): Buffer | undefined {
  const head = readVarint(bytes, 0);
  if (!head || head.value > MAX_PLAIN_BYTES) return undefined;
  const plain = Buffer.alloc(head.value);
  let from = head.end;
  let to = 0;
  while (from < bytes.length) {
    const tag = bytes.readUInt8(from);
    const part = (tag & 3) === 0 ? literalAt(bytes, from, tag) : copyAt(bytes, from, tag);
    if (!part || to + part.lengthBytes > plain.length) return undefined;
    if ('start' in part) {
      if (part.end > bytes.length) return undefined;
      bytes.copy(plain, to, part.start, part.end);
    } else {
      if (part.offset === 0 || part.offset > to) return undefined;
      // Byte by byte: a copy may overlap what it writes.
      for (let step = 0; step < part.lengthBytes; step += 1)
        plain[to + step] = plain[to + step - part.offset] ?? 0;
    }
    to += part.lengthBytes;
    from = part.end;
  }
  return to === plain.length ? plain : undefined;
}

type Literal = { start: number; lengthBytes: number; end: number };
type Copy = { offset: number; lengthBytes: number; end: number };

function literalAt(bytes: Buffer, at: number, tag: number): Literal | undefined {
  const extraBytes = Math.max(0, (tag >> 2) - 59);
  const start = at + 1 + extraBytes;
  if (start > bytes.length) return undefined;
  const lengthBytes = 1 + (extraBytes === 0 ? tag >> 2 : bytes.readUIntLE(at + 1, extraBytes));
  return { start, lengthBytes, end: start + lengthBytes };
}

function copyAt(bytes: Buffer, at: number, tag: number): Copy | undefined {
  const offsetBytes = tag & 2 ? (tag & 1 ? 4 : 2) : 1;
  const end = at + 1 + offsetBytes;
  if (end > bytes.length) return undefined;
  const offset = bytes.readUIntLE(at + 1, offsetBytes);
  if (offsetBytes > 1) return { offset, lengthBytes: (tag >> 2) + 1, end };
  return { offset: ((tag >> 5) << 8) | offset, lengthBytes: ((tag >> 2) & 7) + 4, end };
}

/** A varint: 7 bits a byte, the lowest first; undefined where the bytes end within it, or it is longer than ours can be. */
export function readVarint(bytes: Buffer, at: number): { value: number; end: number } | undefined {
  let value = 0;
  for (let step = 0; step < 7; step += 1) {
    if (at + step >= bytes.length) return undefined;
    const byte = bytes.readUInt8(at + step);
    value += (byte & 0x7f) * 2 ** (7 * step);
    if (byte < 0x80) return { value, end: at + step + 1 };
  }
  return undefined;
}
