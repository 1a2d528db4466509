import { expect, it } from 'vitest';
import { presenceWarnings } from './presence-view.ts';

const troublesOf = (count: number) =>
  Array.from({ length: count }, (_, at) => ({ code: `SITECAST_${at}`, detail: 'broken' }));

const ailing = (...troubles: number[]) =>
  troubles.map((count, at) => ({
    id: `id-${at}`,
    name: `gate-${at}`,
    site: 'north',
    troubles: troublesOf(count),
  }));

const warningsOf = (gateways: ReturnType<typeof ailing>): string[] =>
  presenceWarnings({
    gateways: { heard: gateways.length, silent: 0, untold: 0 },
    silent: [],
    ailing: gateways,
    turns: [],
  });

it('shows two warnings of a gateway and how many more it has, so that none hides the others', () => {
  expect(warningsOf(ailing(8, 3, 2, 1))).toEqual([
    'site north: gateway gate-0 says: broken (SITECAST_0)',
    'site north: gateway gate-0 says: broken (SITECAST_1); and 6 warnings more',
    'site north: gateway gate-1 says: broken (SITECAST_0)',
    'site north: gateway gate-1 says: broken (SITECAST_1); and 1 warning more',
    'site north: gateway gate-2 says: broken (SITECAST_0)',
    'site north: gateway gate-2 says: broken (SITECAST_1)',
    'site north: gateway gate-3 says: broken (SITECAST_0)',
  ]);
});

it('shows one warning of each of many gateways', () => {
  const lines = warningsOf(ailing(8, 8, 8, 8, 8, 8, 8, 1, 1, 1, 1, 8));
  expect(lines).toHaveLength(11);
  expect(lines.at(0)).toBe('site north: gateway gate-0 says: broken (SITECAST_0); and 7 warnings more');
  expect(lines.at(9)).toBe('site north: gateway gate-9 says: broken (SITECAST_0)');
  expect(lines.at(10)).toBe('… and 2 ailing gateways more');
});
