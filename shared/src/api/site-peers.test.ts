import { describe, expect, it } from 'vitest';
import { MAX_INDEX_CHUNKS } from '../content/index.ts';
import { Identity } from '../identity/index.ts';
import { KeyPair } from '../signing/index.ts';
import { peerNoticeSchema } from './index.ts';

describe('a device’s announcement of its images', () => {
  const { id } = new Identity(KeyPair.generate());
  const peer = { id, addresses: [`/ip4/192.0.2.7/tcp/7403/p2p/${id}`] };
  const isRead = (more: object) => peerNoticeSchema.safeParse({ peer, images: [], ...more }).success;

  it('has at most eight of them, each with at most as many chunks as an index can have', () => {
    const images = Array.from({ length: 8 }, (_, at) => String(at).repeat(64));
    expect(isRead({ images, held: images.map(() => MAX_INDEX_CHUNKS) })).toBe(true);
    expect(isRead({ images: [...images, '9'.repeat(64)] })).toBe(false);
    expect(isRead({ images, held: Array.from({ length: 9 }, () => 1) })).toBe(false);
    for (const wrong of [MAX_INDEX_CHUNKS + 1, -1, 1.5, '1']) expect(isRead({ held: [wrong] })).toBe(false);
  });

  it('may omit the number of chunks, as earlier agents do', () => {
    expect(isRead({ images: ['a'.repeat(64)] })).toBe(true);
  });
});
