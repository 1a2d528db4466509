import { expect, it } from 'vitest';
import type { Registry } from '../fleet/registry.ts';
import type { Listing } from '../repository/listing.ts';
import { encodersFor, runningReleases } from './running.ts';
import { deltasTo } from './wanted.ts';

type Said = { counter: number; deltas?: string };

/** A fleet in which device number n reports `devices[n]`. */
function fleetOf(devices: readonly Said[]): Registry {
  const fleet = {
    members: () =>
      devices.map((_, at) => ({ id: `${at}`, kind: 'device', product: 'camera', site: `site-${at % 3}` })),
    status: (id: string) => {
      const { counter, deltas } = devices[Number(id)] ?? { counter: 0 };
      return { last: { booted: { release: { counter, version: `${counter}` } }, ...(deltas && { deltas }) } };
    },
  };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- has all methods that the functions under test call
  return fleet as unknown as Registry;
}

function listingOf(counters: readonly number[]): Pick<Listing, 'releases' | 'deltas'> {
  const file = { name: '', sha256: '', lengthBytes: 0 };
  const releases = counters.map(
    counter => [counter, { product: 'camera', counter, manifest: file, index: file }] as const,
  );
  return { releases: new Map([['camera', new Map(releases)]]), deltas: new Map() };
}

it('wants at most eight deltas in a fleet of thousands of versions: those that most devices can use', () => {
  const versions = Array.from({ length: 5000 }, (_, at) => at + 1);
  const devices: Said[] = versions.map(counter => ({ counter, deltas: 'recipe-1' }));
  for (let counter = 100; counter < 110; counter += 1)
    for (let more = 0; more < counter - 95; more += 1) devices.push({ counter, deltas: 'recipe-1' });
  // Version 7 is the most frequent one, but on earlier agents.
  for (let at = 0; at < 500; at += 1) devices.push({ counter: 7 });
  const registry = fleetOf(devices);
  const wanted = deltasTo('camera', 5000, { listing: listingOf(versions), registry, isMeant: () => true });
  expect(wanted.map(({ from }) => from)).toEqual([109, 108, 107, 106, 105, 104, 103, 102]);
  expect(runningReleases('camera', registry)[0]).toMatchObject({ counter: 7, devices: 501, users: 1 });
});

it('uses the encoders that two fifths of the devices have which can use the delta', () => {
  const say = (count: number, deltas?: string): Said[] =>
    Array.from({ length: count }, () => ({ counter: 1, ...(deltas && { deltas }) }));
  const registry = fleetOf([
    ...say(4, 'recipe-1 zstd pako'),
    ...say(3, 'recipe-1 pako'),
    ...say(3, 'recipe-1'),
    ...say(90),
    ...say(9, 'recipe-1 signed-only lz4'),
  ]);
  expect(encodersFor('camera', 1, registry)).toEqual(['zstd', 'pako']);
  expect(encodersFor('camera', 2, registry)).toBeUndefined();
  expect(encodersFor('camera', 1, fleetOf([...say(4, 'recipe-1 zstd'), ...say(7, 'recipe-1')]))).toEqual([]);
});
