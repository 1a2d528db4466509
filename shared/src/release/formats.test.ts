import { expect, it } from 'vitest';
import {
  MAX_HARDWARE,
  MAX_MANIFEST_BYTES,
  MAX_NOTES_CHARS,
  MAX_WITHDRAWN,
  type ProductFile,
  parseProductFile,
  parseReleaseManifest,
  type ReleaseManifest,
  serializeFile,
  withdrawnAfter,
} from './formats.ts';

const manifest: ReleaseManifest = {
  format: 'sitecast-release-1',
  product: 'camera',
  counter: 2,
  version: '2.0.0',
  hardware: ['rpi4'],
  image: { lengthBytes: 1, sha256: 'a'.repeat(64), chunks: 1 },
  index: { sha256: 'b'.repeat(64), lengthBytes: 104 },
  createdAt: '2026-01-02T03:04:05Z',
};
const encode = (value: unknown) => Buffer.from(JSON.stringify(value));

it('parses what it wrote, and keeps fields of a newer version', () => {
  const newer = { ...manifest, image: { ...manifest.image, extra: 1 }, someday: ['x'] };
  expect(parseReleaseManifest(serializeFile(newer))).toEqual(newer);
});

it.each([
  ['another format', { ...manifest, format: 'sitecast-release-2' }],
  ['a product with a path in it', { ...manifest, product: '../camera' }],
  ['no hardware', { ...manifest, hardware: [] }],
  ['a hardware named twice', { ...manifest, hardware: ['a', 'a'] }],
  ['an empty image', { ...manifest, image: { ...manifest.image, lengthBytes: 0 } }],
  ['a counter that is no whole number', { ...manifest, counter: 1.5 }],
  ['notes longer than the bound', { ...manifest, notes: 'x'.repeat(MAX_NOTES_CHARS + 1) }],
  ['an upper-case hash', { ...manifest, index: { sha256: 'B'.repeat(64), lengthBytes: 1 } }],
])('refuses a manifest with %s', (_what, value) => {
  expect(() => parseReleaseManifest(encode(value))).toThrow(
    expect.objectContaining({ code: 'SITECAST_MANIFEST_INVALID' }),
  );
});

it('accepts notes at the bound, and refuses a file beyond its own bound', () => {
  expect(parseReleaseManifest(encode({ ...manifest, notes: 'x'.repeat(MAX_NOTES_CHARS) })).version).toBe(
    '2.0.0',
  );
  const large = Buffer.concat([encode(manifest), Buffer.alloc(MAX_MANIFEST_BYTES, ' ')]);
  expect(() => parseReleaseManifest(large)).toThrow(/larger than/);
});

it('refuses bytes that are not UTF-8 JSON', () => {
  for (const bytes of [Buffer.from([0xff]), Buffer.from('{'), Buffer.alloc(0), encode(null), encode([])]) {
    expect(() => parseReleaseManifest(bytes)).toThrow(
      expect.objectContaining({ code: 'SITECAST_MANIFEST_INVALID' }),
    );
    expect(() => parseProductFile(bytes)).toThrow(
      expect.objectContaining({ code: 'SITECAST_PRODUCT_INVALID' }),
    );
  }
});

it('keeps withdrawn releases up to a bound, the highest counters first, in a readable product file', () => {
  const all = Array.from({ length: MAX_WITHDRAWN + 1 }, (_, at) => ({
    counter: Number.MAX_SAFE_INTEGER - MAX_WITHDRAWN + at,
    version: `${at}`.padEnd(64, 'v'),
  }));
  const withdrawn = withdrawnAfter({ withdrawn: all.slice(1) }, all.slice(0, 1));
  expect(withdrawn).toEqual(all.slice(1));
  const file: ProductFile = {
    format: 'sitecast-product-1',
    product: 'camera',
    hardware: Array.from({ length: MAX_HARDWARE }, (_, at) => `${at}`.padStart(64, 'h')),
    lastCounter: Number.MAX_SAFE_INTEGER,
    floor: { counter: 0 },
    withdrawn,
  };
  expect(parseProductFile(serializeFile(file))).toEqual(file);
  const tooMany = serializeFile({ ...file, withdrawn: all });
  expect(() => parseProductFile(tooMany)).toThrow(/withdrawn/);
});
