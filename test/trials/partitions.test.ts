import { describePartitions, simulatePartition } from '@sitecast/agent/testing';
import { expect, it } from 'vitest';

const PARTITIONS = 10_000;

it(`${PARTITIONS} sites without a gateway: the share of their devices that is down`, () => {
  const outcomes = Array.from({ length: PARTITIONS }, (_, seed) => simulatePartition(seed));
  console.log(describePartitions(outcomes).join('\n'));
  for (const { updated, devices, gone, mostDown, maxDown } of outcomes) {
    expect(updated).toBe(devices - gone);
    expect(mostDown).toBeLessThanOrEqual(maxDown + 1);
  }
});
