import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { noise } from '../../content/fixtures.ts';
import { SitecastError } from '../../errors.ts';
import {
  type Announcement,
  announcementOf,
  decodeAnnouncement,
  encodeAnnouncement,
  MAX_INLINE_BYTES,
  MAX_INLINE_FILES,
} from './announcement.ts';
import { MAX_MESSAGE_BYTES } from '../options.ts';

const malformed = expect.objectContaining({ code: 'SITECAST_ANNOUNCEMENT_MALFORMED' });
const small: Announcement = {
  rootVersion: 3,
  timestamp: Buffer.from('timestamp'),
  files: new Map([
    ['12.snapshot.json', Buffer.from('snapshot')],
    ['7.rollouts.json', Buffer.from('rollouts')],
  ]),
};

describe('an announcement', () => {
  it('is decoded as it was encoded, and has one encoding', () => {
    const bytes = encodeAnnouncement(small);
    const read = decodeAnnouncement(bytes);
    expect(read.rootVersion).toBe(3);
    expect(Buffer.from(read.timestamp).toString()).toBe('timestamp');
    expect(Buffer.from(read.files.get('7.rollouts.json') ?? '').toString()).toBe('rollouts');
    const turned = { ...small, files: new Map([...small.files].reverse()) };
    expect(Buffer.compare(encodeAnnouncement(turned), bytes)).toBe(0);
  });

  it('may be as large as its bounds, and no larger', () => {
    const largest: Announcement = {
      rootVersion: 2 ** 32 - 1,
      timestamp: noise(16 * 1024, 1),
      files: new Map([['1.snapshot.json', noise(MAX_INLINE_BYTES, 2)]]),
    };
    const bytes = encodeAnnouncement(largest);
    expect(decodeAnnouncement(bytes).files.get('1.snapshot.json')).toHaveLength(MAX_INLINE_BYTES);
    expect(bytes.length).toBeLessThan(MAX_MESSAGE_BYTES);
    const files = (count: number) =>
      new Map(Array.from({ length: count }, (_, at) => [`${at + 1}.snapshot.json`, Buffer.alloc(1)]));
    expect(
      decodeAnnouncement(encodeAnnouncement({ ...small, files: files(MAX_INLINE_FILES) })).files.size,
    ).toBe(MAX_INLINE_FILES);
    for (const larger of [
      { ...largest, timestamp: noise(16 * 1024 + 1, 1) },
      { ...largest, files: new Map([['1.snapshot.json', noise(MAX_INLINE_BYTES + 1, 2)]]) },
      { ...small, files: files(MAX_INLINE_FILES + 1) },
    ])
      expect(() => encodeAnnouncement(larger)).toThrow(
        expect.objectContaining({ code: 'SITECAST_ANNOUNCEMENT_TOO_LARGE' }),
      );
  });

  it('is refused when it is truncated, too long, or has a wrong length', () => {
    const bytes = Buffer.from(encodeAnnouncement(small));
    for (let end = 0; end < bytes.length; end += 1)
      expect(() => decodeAnnouncement(bytes.subarray(0, end))).toThrow(malformed);
    expect(() => decodeAnnouncement(Buffer.concat([bytes, Buffer.of(0)]))).toThrow(malformed);
    const lying = Buffer.from(bytes);
    lying.writeUInt32BE(0xffff_ffff, 5);
    expect(() => decodeAnnouncement(lying)).toThrow(malformed);
    expect(() => decodeAnnouncement(Buffer.alloc(MAX_MESSAGE_BYTES + 1, 1))).toThrow(malformed);
  });

  it('is refused with a name that is no metadata file’s, or with one name twice', () => {
    const bytes = Buffer.from(encodeAnnouncement(small));
    const renamed = (name: string) =>
      Buffer.from(bytes.toString('latin1').replace('7.rollouts.json', name), 'latin1');
    expect(decodeAnnouncement(renamed('8.rollouts.json')).files.has('8.rollouts.json')).toBe(true);
    for (const name of ['../rollout.json', '7.Rollouts.json', '07.rollout.json', '00.snapsho.json'])
      expect(() => decodeAnnouncement(renamed(name))).toThrow(malformed);
  });

  it('is decoded or refused, whatever the bytes', () => {
    const outcomeOf = (bytes: Buffer): unknown => {
      try {
        return typeof decodeAnnouncement(bytes);
      } catch (error) {
        return error instanceof SitecastError ? error.code : error;
      }
    };
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), bytes => {
        const outcome = outcomeOf(Buffer.concat([Buffer.of(1, 0, 0, 0, 1), bytes]));
        expect(['object', 'SITECAST_ANNOUNCEMENT_MALFORMED']).toContain(outcome);
      }),
    );
  });

  it('includes what fits: the snapshot, then the smallest files', () => {
    const changed = new Map([
      ['9.targets.json', noise(MAX_INLINE_BYTES, 1)],
      ['7.rollouts.json', noise(1000, 2)],
      ['12.snapshot.json', noise(2000, 3)],
      ['timestamp.json', noise(10, 4)],
    ]);
    const timestamp = Buffer.from('t');
    expect([...announcementOf(1, timestamp, changed).files.keys()]).toEqual([
      '12.snapshot.json',
      '7.rollouts.json',
    ]);
    changed.delete('12.snapshot.json');
    expect(announcementOf(1, timestamp, changed).files.size).toBe(0);
  });
});
