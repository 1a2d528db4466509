import { CHUNK_ID_BYTES, type ChunkId, MAX_CHUNK_BYTES, MAX_FRAME_BYTES } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';

// `/sitecast/chunks/1`. The side that opens a stream sends requests, the other side answers. For requests in the other direction, the other
// side opens a stream of its own. A message is its length (4 bytes), its type (1 byte) and its body; numbers are big-endian.
//
// Any machine on the LAN can send this. The worst messages are listed where they are handled: those of requesters in
// `chunk-server.ts`, those of answerers in `peer-store.ts`.

export const CHUNK_PROTOCOL = '/sitecast/chunks/1';
const VERSION = 1;

/** A signed assignment, which shows the other side which machine it serves. */
export const MAX_CREDENTIAL_BYTES = 8 * 1024;
/** The longest message of the requesting side. */
export const MAX_ASK_BYTES = MAX_CREDENTIAL_BYTES + 16;
/** The longest message of the answering side: a chunk. */
export const MAX_ANSWER_BYTES = MAX_FRAME_BYTES + 16;
/** Bytes of a bitfield in one message: 65,536 chunks. */
export const MAX_BITFIELD_BYTES = 8 * 1024;
/** Chunks that one message announces as new. */
export const MAX_HAVE_CHUNKS = 2048;

const TYPES = {
  hello: 1,
  get: 2,
  has: 3,
  cancel: 4,
  subscribe: 5,
  frame: 16,
  plain: 17,
  missing: 18,
  present: 19,
  busy: 20,
  bitfield: 21,
  have: 22,
  refused: 23,
} as const;

export type Ask =
  /** The first message. */
  | { type: 'hello'; credential: Uint8Array }
  | { type: 'get' | 'has'; request: number; id: ChunkId }
  /** The request isn't needed any more. It is answered nevertheless: with "missing" if work on it hasn't begun. */
  | { type: 'cancel'; request: number }
  /** From now on, the requester wants to be told which chunks of this image the other side has. */
  | { type: 'subscribe'; image: ChunkId };

export type Answer =
  | { type: 'frame' | 'plain'; request: number; bytes: Uint8Array }
  | { type: 'missing' | 'present' | 'busy'; request: number }
  /** A set bit is a chunk that the peer has. The first bit (the highest of the first byte) stands for chunk number `first`. */
  | { type: 'bitfield'; image: ChunkId; isFetching: boolean; first: number; bits: Uint8Array }
  | { type: 'have'; image: ChunkId; isFetching: boolean; added: readonly number[] }
  /** The peer isn't served, and the stream ends. */
  | { type: 'refused' };

export function encodeAsk(ask: Ask): Buffer {
  switch (ask.type) {
    case 'hello':
      return Buffer.concat([Buffer.of(TYPES.hello, VERSION), ask.credential]);
    case 'get':
    case 'has':
      return Buffer.concat([Buffer.of(TYPES[ask.type]), uint32(ask.request), ask.id]);
    case 'cancel':
      return Buffer.concat([Buffer.of(TYPES.cancel), uint32(ask.request)]);
    default:
      return Buffer.concat([Buffer.of(TYPES.subscribe), ask.image]);
  }
}

/** @throws SITECAST_PEER_PROTOCOL (untrusted) */
export function decodeAsk(message: Buffer): Ask {
  const body = message.subarray(1);
  switch (message[0]) {
    case TYPES.hello:
      if (body[0] !== VERSION) throw violation('another version of the protocol');
      if (body.length - 1 > MAX_CREDENTIAL_BYTES) throw violation('too long a credential');
      return { type: 'hello', credential: body.subarray(1) };
    case TYPES.get:
    case TYPES.has:
      demandLength(body, 4 + CHUNK_ID_BYTES);
      return {
        type: message[0] === TYPES.get ? 'get' : 'has',
        request: body.readUInt32BE(0),
        id: body.subarray(4),
      };
    case TYPES.cancel:
      demandLength(body, 4);
      return { type: 'cancel', request: body.readUInt32BE(0) };
    case TYPES.subscribe:
      demandLength(body, CHUNK_ID_BYTES);
      return { type: 'subscribe', image: body };
    default:
      throw violation('a message that no asker sends');
  }
}

/** @returns the parts of the message; a chunk's bytes are not copied */
export function encodeAnswer(answer: Answer): Uint8Array[] {
  switch (answer.type) {
    case 'frame':
    case 'plain':
      return [Buffer.concat([Buffer.of(TYPES[answer.type]), uint32(answer.request)]), answer.bytes];
    case 'missing':
    case 'present':
    case 'busy':
      return [Buffer.concat([Buffer.of(TYPES[answer.type]), uint32(answer.request)])];
    case 'bitfield':
      return [holdingsHead(answer), uint32(answer.first), answer.bits];
    case 'have':
      return [holdingsHead(answer), ...answer.added.map(uint32)];
    default:
      return [Buffer.of(TYPES.refused)];
  }
}

/** @throws SITECAST_PEER_PROTOCOL (untrusted) */
export function decodeAnswer(message: Buffer): Answer {
  const body = message.subarray(1);
  switch (message[0]) {
    case TYPES.frame:
      return { type: 'frame', request: requestOf(body), bytes: bytesOf(body, MAX_FRAME_BYTES) };
    case TYPES.plain:
      return { type: 'plain', request: requestOf(body), bytes: bytesOf(body, MAX_CHUNK_BYTES) };
    case TYPES.missing:
    case TYPES.present:
    case TYPES.busy:
      demandLength(body, 4);
      return { type: ANSWER_NAMES[message[0]], request: body.readUInt32BE(0) };
    case TYPES.bitfield:
      return decodeBitfield(body);
    case TYPES.have:
      return decodeHave(body);
    case TYPES.refused:
      demandLength(body, 0);
      return { type: 'refused' };
    default:
      throw violation('a message that no answerer sends');
  }
}

/** The error for a peer that breaks the protocol. */
export function violation(what: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_PEER_PROTOCOL', `a peer sent what it must not: ${what}`);
}

const ANSWER_NAMES = {
  [TYPES.missing]: 'missing',
  [TYPES.present]: 'present',
  [TYPES.busy]: 'busy',
} as const;

const HOLDINGS_HEAD_BYTES = CHUNK_ID_BYTES + 1;

function holdingsHead(answer: { type: 'bitfield' | 'have'; image: ChunkId; isFetching: boolean }): Buffer {
  return Buffer.concat([Buffer.of(TYPES[answer.type]), answer.image, Buffer.of(answer.isFetching ? 1 : 0)]);
}

function readHoldingsHead(body: Buffer): { image: ChunkId; isFetching: boolean; rest: Buffer } {
  if (body.length < HOLDINGS_HEAD_BYTES) throw violation('a message that is cut off');
  return {
    image: body.subarray(0, CHUNK_ID_BYTES),
    isFetching: body[CHUNK_ID_BYTES] === 1,
    rest: body.subarray(HOLDINGS_HEAD_BYTES),
  };
}

function decodeBitfield(body: Buffer): Answer {
  const { rest, ...head } = readHoldingsHead(body);
  const bits = rest.subarray(4);
  if (rest.length < 4 || bits.length > MAX_BITFIELD_BYTES) throw violation('a bitmap of the wrong length');
  return { type: 'bitfield', ...head, first: rest.readUInt32BE(0), bits };
}

function decodeHave(body: Buffer): Answer {
  const { rest, ...head } = readHoldingsHead(body);
  if (rest.length % 4 !== 0 || rest.length / 4 > MAX_HAVE_CHUNKS) throw violation('a wrong list of chunks');
  const added = Array.from({ length: rest.length / 4 }, (_, at) => rest.readUInt32BE(at * 4));
  return { type: 'have', ...head, added };
}

function requestOf(body: Buffer): number {
  if (body.length < 4) throw violation('a message that is cut off');
  return body.readUInt32BE(0);
}

function bytesOf(body: Buffer, maxBytes: number): Uint8Array {
  const bytes = body.subarray(4);
  if (bytes.length > maxBytes) throw violation(`a chunk of more than ${maxBytes} bytes`);
  return bytes;
}

function demandLength(body: Buffer, lengthBytes: number): void {
  if (body.length !== lengthBytes) throw violation('a message of the wrong length');
}

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
