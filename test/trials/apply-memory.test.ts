import { largestNested, largestOpened, peakAboveIdle } from '@sitecast/shared/delta/testing';
import { expect, it } from 'vitest';

const MIB = 2 ** 20;

it('stays within 64 MiB above idle with windows of four kinds of pieces in turn, again and again', async () => {
  // Making them takes minutes: the encoders of pieces are ports, and the test runner calls a getter for each use of an import.
  const patches = [
    await largestOpened(),
    await largestNested(),
    await largestOpened('pako-2.2.0'),
    await largestOpened('liblzma-5.4-ported'),
  ];
  const peakBytes = await peakAboveIdle(patches);
  console.log(`${(peakBytes / MIB).toFixed(1)} MiB above idle`);
  expect(peakBytes).toBeLessThan(64 * MIB);
});
