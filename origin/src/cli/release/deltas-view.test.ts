import type { DeltaView } from '@sitecast/shared/api';
import { expect, it } from 'vitest';
import { describeCost, describeDeltas } from './deltas-view.ts';

const delta: DeltaView = {
  from: 1,
  to: 4,
  fromVersion: '1.0.0',
  toVersion: '2.0.0',
  state: 'waiting',
  by: 'origin',
  requestedAt: '2026-12-01T08:00:00.123Z',
  doneBasisPoints: 0,
  patches: 0,
  patchBytes: 0,
  tries: 0,
};

it('lists deltas by the labels of their releases, with what is known of each, and marks estimates', () => {
  const reason = { code: 'SITECAST_NO_SPACE', message: 'the disk is full' };
  const lines = describeDeltas([
    delta,
    { ...delta, doneBasisPoints: 1250, estimatedBytes: 1024 },
    { ...delta, state: 'making', doneBasisPoints: 4250, estimatedBytes: 2048 },
    {
      ...delta,
      state: 'published',
      bytes: 1_500_000,
      chunkBytes: 15_000_000,
      endedAt: '2026-12-01T09:30:00.5Z',
    },
    { ...delta, state: 'notWorth', toVersion: undefined },
    { ...delta, tries: 2, notBefore: '2026-12-01T10:00:00Z', reason },
    { ...delta, state: 'failed', tries: 4, reason, by: 'anna' },
    {
      ...delta,
      state: 'removed',
      by: 'anna',
      reason: { code: 'SITECAST_DELTA_REMOVED', message: 'berta removed it' },
    },
  ]);
  const cells = lines.map(line => line.split(/ {2,}/));
  expect(cells).toEqual([
    ['FROM -> TO', 'STATE', 'A DEVICE FETCHES', 'BY CHUNKS', 'SINCE', 'ASKED BY'],
    ['1.0.0 -> 2.0.0', 'waiting', '2026-12-01T08:00:00Z', 'origin'],
    ['1.0.0 -> 2.0.0', 'waiting, 12 % made', 'about 1.0 KiB', '2026-12-01T08:00:00Z', 'origin'],
    ['1.0.0 -> 2.0.0', 'making, 42 %', 'about 2.0 KiB', '2026-12-01T08:00:00Z', 'origin'],
    ['1.0.0 -> 2.0.0', 'published', '1.4 MiB', '14 MiB', '2026-12-01T09:30:00Z', 'origin'],
    ['1.0.0 -> counter 4', 'not worth it', '2026-12-01T08:00:00Z', 'origin', 'chunks cost no more'],
    [
      '1.0.0 -> 2.0.0',
      'waiting, failed 2 times',
      '2026-12-01T08:00:00Z',
      'origin',
      'SITECAST_NO_SPACE: the disk is full; again at 2026-12-01T10:00:00Z',
    ],
    ['1.0.0 -> 2.0.0', 'failed', '2026-12-01T08:00:00Z', 'anna', 'SITECAST_NO_SPACE: the disk is full'],
    ['1.0.0 -> 2.0.0', 'removed', '2026-12-01T08:00:00Z', 'anna', 'berta removed it'],
  ]);
});

it('tells what an update costs those that can use the delta, and the others', () => {
  const lines = describeCost({
    to: { counter: 4, version: '2.0.0' },
    imageBytes: 20_000_000,
    from: [
      {
        from: { counter: 1, version: '1.0.0' },
        devices: 5,
        by: 'delta',
        bytes: 1_500_000,
        isEstimate: false,
        others: [
          { devices: 2, by: 'chunks', bytes: 15_000_000 },
          { devices: 1, by: 'chunks', bytes: 15_000_000, why: 'signedOnly' },
          { devices: 2, by: 'delta', bytes: 3_000_000, why: 'encoders', lacks: ['lz4', 'zstd-1.5.5-wasm'] },
          { devices: 3, by: 'chunks', bytes: 15_000_000, why: 'noDeltas' },
        ],
      },
    ],
    sites: { count: 1, mostBytes: 16_500_000, allBytes: 16_500_000, isEstimate: true },
    unknown: 0,
  });
  expect(lines).toEqual([
    'from 1.0.0, 5 devices: 1.4 MiB a device, by a delta',
    "  2 of them can't use all of it: about 14 MiB a device, by chunks",
    '  1 of them takes only deltas that release keys have signed (`release draft --delta-from`): about 14 MiB a device, by chunks',
    '  2 of them lack lz4, zstd-1.5.5-wasm, which the delta needs: 2.9 MiB a device, by a delta',
    '  3 of them use no deltas (an earlier agent, or `--deltas off`): about 14 MiB a device, by chunks',
    'over the WAN of 1 site: at most about 16 MiB a site, about 16 MiB together',
  ]);
});
