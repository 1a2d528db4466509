import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { received } from './index.ts';

const reader = received(
  z.object({ granted: z.boolean(), retryAfterMs: z.int().optional(), heldBy: z.array(z.string()) }),
);

describe('an answer that nothing vouches for', () => {
  it('is read with the fields that have the expected kind', () => {
    const answer = { granted: true, retryAfterMs: 'soon', heldBy: ['one', 2] };
    expect(reader.parse(answer)).toEqual({ granted: true });
  });

  it('may lack fields, and have unknown ones', () => {
    expect(reader.parse({ heldBy: [], since: 'yesterday' })).toEqual({ heldBy: [] });
  });

  it.each([undefined, null, 'a page', 7, [true], []])('is without fields where it is %j', value => {
    expect(reader.parse(value)).toEqual({});
  });
});
