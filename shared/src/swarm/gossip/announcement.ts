import { SitecastError } from '../../errors.ts';
import { DEFAULT_TRUST_LIMITS } from '../../trust/index.ts';
import { MAX_MESSAGE_BYTES } from '../options.ts';

// Every machine with the fleet's key can send this: all gateways, including a stolen one. The worst message: wrong lengths, a thousand
// files, names that lead elsewhere. So everything is bounded before it is copied, and only names of metadata files are accepted.

/** Bound on the files in a message, besides the timestamp. Gateways that need larger ones fetch them. */
export const MAX_INLINE_BYTES = 64 * 1024;
export const MAX_INLINE_FILES = 16;
const MAX_NAME_BYTES = 64;
const MAX_TIMESTAMP_BYTES = DEFAULT_TRUST_LIMITS.maxTimestampBytes;
const FORMAT = 1;
/** As consistent snapshots name them: `12.snapshot.json`. */
const FILE_NAME = /^([1-9]\d{0,14})\.([a-z][a-z0-9-]{0,31})\.json$/;

/** What a gateway sends to others when the repository has changed. */
export interface Announcement {
  /** Version of the root that verifies the rest. */
  readonly rootVersion: number;
  /** The new signed timestamp, as it came. */
  readonly timestamp: Uint8Array;
  /** Changed metadata by its versioned name, as it came; the snapshot names each by its hash. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/**
 * An announcement with as many of the changed files as fit: first the snapshot, as it names the others, then smaller files before larger.
 * @param changed by their versioned names, as they came
 */
export function announcementOf(
  rootVersion: number,
  timestamp: Uint8Array,
  changed: ReadonlyMap<string, Uint8Array>,
): Announcement {
  const named = [...changed].filter(([name]) => FILE_NAME.test(name));
  const snapshot = named.filter(([name]) => readFileName(name).role === 'snapshot');
  const others = named.filter(([name]) => readFileName(name).role !== 'snapshot');
  others.sort(([name, one], [otherName, other]) => one.length - other.length || (name < otherName ? -1 : 1));
  const files = new Map<string, Uint8Array>();
  let inlineBytes = 0;
  for (const [name, bytes] of snapshot.length === 1 ? [...snapshot, ...others] : []) {
    if (files.size === MAX_INLINE_FILES || inlineBytes + bytes.length > MAX_INLINE_BYTES) break;
    files.set(name, bytes);
    inlineBytes += bytes.length;
  }
  return { rootVersion, timestamp, files };
}

/**
 * Format byte, root version (4 bytes), timestamp (length in 4 bytes, then it), number of files (1 byte), and for each name
 * (length in 1 byte) and content (length in 4 bytes); big-endian. One announcement has one encoding.
 * @throws SITECAST_ANNOUNCEMENT_TOO_LARGE
 */
export function encodeAnnouncement({ rootVersion, timestamp, files }: Announcement): Uint8Array {
  const inlineBytes = [...files.values()].reduce((sum, bytes) => sum + bytes.length, 0);
  if (
    timestamp.length > MAX_TIMESTAMP_BYTES ||
    inlineBytes > MAX_INLINE_BYTES ||
    files.size > MAX_INLINE_FILES
  )
    throw new SitecastError(
      'tooLarge',
      'SITECAST_ANNOUNCEMENT_TOO_LARGE',
      'more metadata than is announced',
      {
        data: { timestampBytes: timestamp.length, inlineBytes, files: files.size },
      },
    );
  const parts = [
    Buffer.of(FORMAT),
    uint32(rootVersion),
    uint32(timestamp.length),
    timestamp,
    Buffer.of(files.size),
  ];
  for (const [name, bytes] of sorted(files)) {
    if (!FILE_NAME.test(name)) throw new TypeError(`not the name of a metadata file: ${name}`);
    parts.push(Buffer.of(name.length), Buffer.from(name), uint32(bytes.length), bytes);
  }
  return Buffer.concat(parts);
}

/** @throws SITECAST_ANNOUNCEMENT_MALFORMED for anything that `encodeAnnouncement` doesn't make */
export function decodeAnnouncement(message: Uint8Array): Announcement {
  if (message.length > MAX_MESSAGE_BYTES) throw malformed(`more than ${MAX_MESSAGE_BYTES} bytes`);
  const reader = new Reader(message);
  if (reader.uint8() !== FORMAT) throw malformed('another format');
  const rootVersion = reader.uint32();
  if (rootVersion === 0) throw malformed('no root has version 0');
  const timestamp = reader.bytes(reader.uint32(), MAX_TIMESTAMP_BYTES);
  const count = reader.uint8();
  if (count > MAX_INLINE_FILES) throw malformed(`more than ${MAX_INLINE_FILES} files`);
  const files = new Map<string, Uint8Array>();
  let before = '';
  let inlineBytes = 0;
  for (let at = 0; at < count; at += 1) {
    const name = Buffer.from(reader.bytes(reader.uint8(), MAX_NAME_BYTES)).toString('latin1');
    if (!FILE_NAME.test(name) || name <= before) throw malformed('a wrong name, or names out of order');
    const bytes = reader.bytes(reader.uint32(), MAX_INLINE_BYTES - inlineBytes);
    inlineBytes += bytes.length;
    files.set(name, bytes);
    before = name;
  }
  if (!reader.isAtEnd) throw malformed('bytes follow its end');
  return { rootVersion, timestamp, files };
}

/** @returns role and version of `12.snapshot.json`, whose form the decoder has checked */
export function readFileName(name: string): { role: string; version: number } {
  const [, version, role] = FILE_NAME.exec(name) ?? [];
  if (version === undefined || role === undefined) throw malformed('a wrong name');
  return { role, version: Number(version) };
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  uint8(): number {
    return this.bytes(1, 1).readUInt8();
  }

  uint32(): number {
    return this.bytes(4, 4).readUInt32BE();
  }

  /** A view of the next bytes. */
  bytes(lengthBytes: number, maxBytes: number): Buffer {
    if (lengthBytes > maxBytes) throw malformed(`${lengthBytes} bytes where at most ${maxBytes} may be`);
    const end = this.#at + lengthBytes;
    if (end > this.#bytes.length) throw malformed('it is cut off');
    const view = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return view;
  }
}

function sorted(files: ReadonlyMap<string, Uint8Array>): [string, Uint8Array][] {
  return [...files].sort(([one], [other]) => (one < other ? -1 : 1));
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function malformed(why: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_ANNOUNCEMENT_MALFORMED', `this is no announcement: ${why}`);
}
