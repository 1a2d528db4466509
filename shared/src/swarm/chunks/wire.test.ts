import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_CHUNK_BYTES, MAX_FRAME_BYTES } from '../../content/index.ts';
import { chunkOf } from '../../content/store/conformance.ts';
import { SitecastError } from '../../errors.ts';
import { Bitfield, setBits } from './holdings.ts';
import {
  type Answer,
  type Ask,
  decodeAnswer,
  decodeAsk,
  encodeAnswer,
  encodeAsk,
  MAX_ANSWER_BYTES,
  MAX_ASK_BYTES,
  MAX_BITFIELD_BYTES,
  MAX_CREDENTIAL_BYTES,
  MAX_HAVE_CHUNKS,
} from './wire.ts';

const { id } = chunkOf('a chunk');
const asBytes = (answer: Answer) => Buffer.concat(encodeAnswer(answer));
const violation = expect.objectContaining({ code: 'SITECAST_PEER_PROTOCOL' });

const asks: Ask[] = [
  { type: 'hello', credential: Buffer.alloc(MAX_CREDENTIAL_BYTES, 1) },
  { type: 'get', request: 2 ** 32 - 1, id },
  { type: 'has', request: 0, id },
  { type: 'cancel', request: 7 },
  { type: 'subscribe', image: id },
];
const answers: Answer[] = [
  { type: 'frame', request: 1, bytes: Buffer.alloc(MAX_FRAME_BYTES, 1) },
  { type: 'plain', request: 1, bytes: Buffer.alloc(MAX_CHUNK_BYTES, 1) },
  { type: 'missing', request: 1 },
  { type: 'present', request: 1 },
  { type: 'busy', request: 1 },
  { type: 'bitfield', image: id, isFetching: true, first: 8, bits: Buffer.alloc(MAX_BITFIELD_BYTES, 1) },
  {
    type: 'have',
    image: id,
    isFetching: false,
    added: Array.from({ length: MAX_HAVE_CHUNKS }, (_, at) => at),
  },
  { type: 'have', image: id, isFetching: false, added: [] },
  { type: 'refused' },
];

describe('a message', () => {
  it('is decoded as it was encoded, also at its largest', () => {
    for (const ask of asks) {
      const bytes = encodeAsk(ask);
      expect(bytes.length).toBeLessThanOrEqual(MAX_ASK_BYTES);
      expect(decodeAsk(bytes).type).toBe(ask.type);
      expect(encodeAsk(decodeAsk(bytes)).equals(bytes)).toBe(true);
    }
    for (const answer of answers) {
      const bytes = asBytes(answer);
      expect(bytes.length).toBeLessThanOrEqual(MAX_ANSWER_BYTES);
      expect(asBytes(decodeAnswer(bytes)).equals(bytes)).toBe(true);
    }
  });

  it('is refused beyond its bounds', () => {
    const tooLong: Answer[] = [
      { type: 'frame', request: 1, bytes: Buffer.alloc(MAX_FRAME_BYTES + 1) },
      { type: 'plain', request: 1, bytes: Buffer.alloc(MAX_CHUNK_BYTES + 1) },
      { type: 'bitfield', image: id, isFetching: true, first: 0, bits: Buffer.alloc(MAX_BITFIELD_BYTES + 1) },
      {
        type: 'have',
        image: id,
        isFetching: true,
        added: Array.from({ length: MAX_HAVE_CHUNKS + 1 }, () => 0),
      },
    ];
    for (const answer of tooLong) expect(() => decodeAnswer(asBytes(answer))).toThrow(violation);
    expect(() =>
      decodeAsk(encodeAsk({ type: 'hello', credential: Buffer.alloc(MAX_CREDENTIAL_BYTES + 1) })),
    ).toThrow(violation);
  });

  it.each<[string, (bytes: Buffer) => object]>([
    ['of a requester', decodeAsk],
    ['of an answerer', decodeAnswer],
  ])('%s is decoded or refused, whatever the bytes', (_whose, decode) => {
    const outcomeOf = (bytes: Buffer): unknown => {
      try {
        return typeof decode(bytes);
      } catch (error) {
        return error instanceof SitecastError ? error.code : error;
      }
    };
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 30 }), fc.uint8Array({ maxLength: 80 }), (type, body) => {
        expect(['object', 'SITECAST_PEER_PROTOCOL']).toContain(outcomeOf(Buffer.from([type, ...body])));
      }),
    );
  });
});

describe("an image's bitfield", () => {
  it('is sent in pieces that together hold all of it', () => {
    const bits = new Bitfield(200_000);
    const wanted = [0, 7, 8, 65_535, 65_536, 199_999];
    for (const at of wanted) expect(bits.add(at)).toBe(true);
    expect(bits.add(7)).toBe(false);
    for (const outside of [-1, 200_000]) expect(bits.add(outside)).toBe(false);
    bits.remove(8);
    bits.remove(9);
    const told = [...bits.pieces()].flatMap(piece => [...setBits(piece.first, piece.bits)]);
    expect(told).toEqual(wanted.filter(at => at !== 8));
    expect(bits.size).toBe(5);
    expect([...bits.pieces()].every(piece => piece.bits.length <= MAX_BITFIELD_BYTES)).toBe(true);
  });
});
