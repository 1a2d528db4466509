import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { BaseSamples } from './base-samples.ts';

const MIB = 2 ** 20;

it('finds content at its place in the base, in whatever parts the base was given', () => {
  const base = randomBytes(4 * MIB);
  const samples = new BaseSamples(base.length);
  for (let offset = 0; offset < base.length; offset += MIB)
    samples.add(base.subarray(offset, offset + MIB), offset);
  const from = 2.5 * MIB + 123;
  const hits = samples.find(base.subarray(from, from + MIB / 4));
  expect(hits.length).toBeGreaterThan(1000);
  expect(hits.every(offset => offset >= from - 4096 && offset <= from + MIB / 4)).toBe(true);
  // Digests are short, so now and then other bytes have the same one.
  expect(samples.find(randomBytes(MIB)).length).toBeLessThan(10);
});

it('finds no place for content that the base repeats often', () => {
  const repeated = randomBytes(8192);
  const samples = new BaseSamples(MIB);
  samples.add(Buffer.concat(Array.from({ length: 20 }, () => repeated)), 0);
  expect(samples.find(repeated)).toEqual([]);
});

it('samples a run of one byte once', () => {
  const samples = new BaseSamples(MIB);
  for (let byte = 0; byte < 256; byte++) samples.add(new Uint8Array(4096).fill(byte), byte * 4096);
  expect(samples.find(new Uint8Array(4096).fill(7)).length).toBeLessThanOrEqual(1);
});
