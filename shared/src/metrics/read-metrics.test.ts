import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { readCounter, readFailure, readGauge } from './index.ts';

const samplesOf = async (registry: Registry) =>
  (await registry.metrics()).split('\n').filter(line => line !== '' && !line.startsWith('#'));

it('leave out what cannot be read now, and show the others', async () => {
  let isDamaged = false;
  const read =
    <T>(value: T) =>
    async (): Promise<T> => {
      await Promise.resolve();
      if (isDamaged) throw new Error('Corruption: block checksum mismatch');
      return value;
    };
  const registry = new Registry();
  const metrics = [
    readGauge('held', 'Read from a database.', read(3)),
    readCounter('counted_total', 'Read from a database.', read(4)),
    readGauge('held_by', 'Read from a database.', read([[{ site: 'north' }, 5]] as const), ['site']),
    readGauge('damaged', 'Whether it is damaged.', () => Number(isDamaged)),
  ];
  for (const metric of metrics) registry.registerMetric(metric);
  const whole = ['held 3', 'counted_total 4', 'held_by{site="north"} 5'];
  expect(await samplesOf(registry)).toEqual([...whole, 'damaged 0']);
  isDamaged = true;
  expect(await samplesOf(registry)).toEqual(['damaged 1']);
  expect(readFailure(metrics)).toMatchObject({ message: 'Corruption: block checksum mismatch' });
  isDamaged = false;
  expect(await samplesOf(registry)).toEqual([...whole, 'damaged 0']);
  expect(readFailure(metrics)).toBeUndefined();
});
