import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { SitecastError } from '../errors.ts';
import { BATCH_HEAD_BYTES, decodeBatch, writeBatchHead } from './batch.ts';
import { chunkIdOf } from './chunk-id.ts';
import { MAX_BATCH_BYTES, MAX_BATCH_CHUNKS, MAX_FRAME_BYTES } from './limits.ts';

function encode(frames: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    frames.flatMap(frame => {
      const head = Buffer.alloc(BATCH_HEAD_BYTES);
      writeBatchHead(head, 0, chunkIdOf(frame), frame.length);
      return [head, frame];
    }),
  );
}

function codeOf(bytes: Uint8Array): string {
  try {
    decodeBatch(bytes);
    return 'read';
  } catch (error) {
    return error instanceof SitecastError ? error.code : `not a SitecastError: ${String(error)}`;
  }
}

it('decodes what was encoded', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 30 }), frames => {
      const entries = decodeBatch(encode(frames));
      expect(entries.map(({ frame }) => Buffer.from(frame))).toEqual(frames.map(frame => Buffer.from(frame)));
      expect(entries.every(({ id, frame }) => Buffer.compare(id, chunkIdOf(frame)) === 0)).toBe(true);
    }),
  );
});

it('refuses every truncated batch', () => {
  const batch = encode([Buffer.from('one'), Buffer.from('two')]);
  const ends = [0, BATCH_HEAD_BYTES + 3, batch.length];
  for (let end = 0; end <= batch.length; end++) {
    expect(codeOf(batch.subarray(0, end))).toBe(ends.includes(end) ? 'read' : 'SITECAST_BATCH_MALFORMED');
  }
});

it('bounds a frame, a batch and the chunks in it', () => {
  expect(codeOf(encode([Buffer.alloc(MAX_FRAME_BYTES)]))).toBe('read');
  expect(codeOf(encode([Buffer.alloc(MAX_FRAME_BYTES + 1)]))).toBe('SITECAST_BATCH_MALFORMED');
  expect(codeOf(encode([Buffer.alloc(0)]))).toBe('SITECAST_BATCH_MALFORMED');

  const frames = Array.from({ length: 8 }, () => Buffer.alloc(2 ** 20 - BATCH_HEAD_BYTES));
  const full = encode(frames);
  expect(full.length).toBe(MAX_BATCH_BYTES);
  expect(codeOf(full)).toBe('read');
  expect(codeOf(Buffer.concat([full, Buffer.of(0)]))).toBe('SITECAST_BATCH_TOO_LARGE');

  const tiny = Buffer.of(1);
  expect(codeOf(encode(Array.from({ length: MAX_BATCH_CHUNKS }, () => tiny)))).toBe('read');
  expect(codeOf(encode(Array.from({ length: MAX_BATCH_CHUNKS + 1 }, () => tiny)))).toBe(
    'SITECAST_BATCH_TOO_LARGE',
  );
});

it('decodes any bytes to entries, or throws SITECAST_BATCH_MALFORMED', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), bytes => {
      expect(codeOf(bytes)).toMatch(/^(read|SITECAST_BATCH_MALFORMED)$/);
    }),
  );
});
