import { expect, it } from 'vitest';
import { simulatePartition } from '../testing/partition-simulation.ts';

// `npm run test:trials` does this with 10,000 partitions, and prints the shares.
const PARTITIONS = 600;

it('in sites without a gateway, gives each device its turn, with hardly more devices down than the rollout allows', () => {
  const outcomes = Array.from({ length: PARTITIONS }, (_, seed) => simulatePartition(seed));
  for (const { updated, devices, gone, mostDown, maxDown } of outcomes) {
    expect(updated).toBe(devices - gone);
    expect(mostDown).toBeLessThanOrEqual(maxDown + 1);
  }
  const above = outcomes.filter(({ mostDown, maxDown }) => mostDown > maxDown);
  expect(above.length / PARTITIONS).toBeLessThan(0.03);
  const meanShare = outcomes.reduce((sum, outcome) => sum + outcome.meanShare, 0) / PARTITIONS;
  expect(meanShare).toBeLessThan(0.01);
});
