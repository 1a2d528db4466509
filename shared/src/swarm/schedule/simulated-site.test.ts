// Whole sites in virtual time: what the scheduler itself loses, without effects of cores and packets. The simulation is deterministic, so
// the bounds are its results, rounded up. With a fixed four requests to each source, most of them fail.
import { describe, expect, it } from 'vitest';
import { simulate, type SimulatedOutcome, type SimulatedSite } from '../testing/simulated-site.ts';

/** A gateway that has the image, behind a port as fast as those of the devices. */
const THIN_GATEWAY = { deviceMbit: 12.5, gatewayMbit: 12.5 };
const FULL_RATE = { deviceMbit: 100, gatewayMbit: 100 };
const THIN_WAN = { deviceMbit: 100, gatewayMbit: 1000, wanMbit: 20 };
const SEEDS = [1, 2];

interface Right {
  site: SimulatedSite;
  /** When the last device ends, in multiples of the time of one copy over the thin link. */
  last: number;
  /** How often the gateway sends the image. */
  copies: number;
}

const RIGHT: Record<string, Right> = {
  'thin gateway, 2 devices': { site: { ...THIN_GATEWAY, devices: 2 }, last: 1.06, copies: 1.01 },
  'thin gateway, 4 devices': { site: { ...THIN_GATEWAY, devices: 4 }, last: 1.07, copies: 1.01 },
  'thin gateway, 8 devices': { site: { ...THIN_GATEWAY, devices: 8 }, last: 1.12, copies: 1.02 },
  'thin gateway, 16 devices': { site: { ...THIN_GATEWAY, devices: 16, stepMs: 3 }, last: 1.15, copies: 1.04 },
  'thin gateway at full rate, 8 devices': { site: { ...FULL_RATE, devices: 8 }, last: 1.32, copies: 1.02 },
  'thin gateway far away, 4 devices': {
    site: { ...THIN_GATEWAY, devices: 4, rttMs: 40 },
    last: 1.1,
    copies: 1.01,
  },
  'thin gateway at full rate and far away, 8 devices': {
    site: { ...FULL_RATE, devices: 8, rttMs: 40, queueMs: 20 },
    last: 1.43,
    copies: 1.02,
  },
  'thin WAN, 8 devices': { site: { ...THIN_WAN, devices: 8 }, last: 1.05, copies: 1.02 },
  'thin WAN, 16 devices': { site: { ...THIN_WAN, devices: 16 }, last: 1.05, copies: 1.02 },
  'two of 8 begin when the others have nearly half': {
    site: { ...THIN_GATEWAY, devices: 8, late: { devices: 2, afterMs: 10_000 } },
    last: 1.09,
    copies: 1.02,
  },
  'one of 8 leaves': { site: { ...THIN_GATEWAY, devices: 8, leavesAfterMs: 8000 }, last: 1.13, copies: 1.02 },
  'one of 8 has a fifth of the rate': {
    site: { ...THIN_GATEWAY, devices: 8, slowShare: 0.2 },
    last: 1.47,
    copies: 1.08,
  },
  '64 devices': {
    site: { ...THIN_GATEWAY, devices: 64, imageBytes: 16 * 2 ** 20, chunks: 120, stepMs: 20 },
    last: 2.9,
    copies: 1.6,
  },
};

describe('a site ends close to the time of one copy over its thin link', () => {
  it.each(Object.entries(RIGHT))('%s', { timeout: 120_000 }, async (_, { site, last, copies }) => {
    const outcomes: SimulatedOutcome[] = [];
    const seeds = site.devices > 8 ? SEEDS.slice(1) : SEEDS;
    for (const seed of seeds) outcomes.push(await simulate({ ...site, seed }));
    for (const { lastOverLimit, copies: sent, wanCopies } of outcomes) {
      expect(lastOverLimit).toBeLessThanOrEqual(last);
      expect(lastOverLimit).toBeGreaterThan(1);
      expect(sent).toBeLessThanOrEqual(copies);
      // Each chunk crosses the WAN once, whatever the devices do.
      expect(wanCopies).toBeLessThanOrEqual(1.01);
    }
  });
});

it('the simulated network shares its ports as TCP does, and its clock is virtual', async () => {
  const one = await simulate({ ...THIN_GATEWAY, devices: 3, seed: 5 });
  expect(await simulate({ ...THIN_GATEWAY, devices: 3, seed: 5 })).toEqual(one);
});
