import { randomFrom } from '@sitecast/shared/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BootDevice, BootTestbed, NEXT, OLD } from './testbed/boot-testbed.ts';
import { whyNoMachine } from './testbed/needs.ts';

const SEED = 142;
const DEVICES = 5;
/** Of each device, while it installs; one more comes in the first boot of the new slot, which has two tries. */
const CUTS_OF_INSTALL = 3;
const WHOLE = [`${OLD} good`, `${NEXT} good`];
const why = whyNoMachine();

describe.skipIf(why !== '')(`a power cut of a running machine with GRUB${why}`, () => {
  let testbed: BootTestbed;
  beforeAll(async () => {
    testbed = await BootTestbed.open();
  });
  afterAll(() => testbed.close());

  it(`leaves a whole image to boot, and the update ends (${DEVICES * (CUTS_OF_INSTALL + 1)} cuts)`, async () => {
    const random = randomFrom(SEED);
    const rollout = await testbed.publish('cuts', 'good');
    const total = await writesOfUpdate(testbed.makeDevice('cuts', rollout, 'cuts-none'));
    const chosen = { A: 0, B: 0 };
    for (let at = 0; at < DEVICES; at += 1) {
      const device = testbed.makeDevice('cuts', rollout, `cuts-${at}`);
      try {
        for (let cut = 0; cut < CUTS_OF_INSTALL; cut += 1) {
          const machine = device.powerOn();
          await machine.writesReach(Math.ceil(random() * total.install), / rebooting into /);
          await device.cutPower();
          chosen[expectWhole(device)] += 1;
        }
        const machine = device.powerOn();
        await machine.shows(/Sitecast: starting slot B/);
        await machine.writesReach(
          (await machine.writes()) + Math.ceil(random() * total.firstBoot),
          / idle\b/,
        );
        await device.cutPower();
        chosen[expectWhole(device)] += 1;

        device.powerOn();
        await device.reports('completed', at + 2);
        await device.cutPower();
        expect(device.next()).toMatchObject({ slot: 'B', holds: `${NEXT} good` });
      } finally {
        await device.remove();
      }
    }
    expect((await testbed.site.rollout(rollout)).counts).toEqual({ completed: DEVICES + 1 });
    // Before the trial and after it.
    expect(chosen.A).toBeGreaterThan(0);
    expect(chosen.B).toBeGreaterThan(0);
  });
});

/** How many writes an update makes until its reboot, and from there on, where nothing comes between. */
async function writesOfUpdate(device: BootDevice): Promise<{ install: number; firstBoot: number }> {
  try {
    const machine = device.powerOn();
    await machine.shows(/reboot: Restarting/);
    const install = await machine.writes();
    await device.reports('completed');
    return { install, firstBoot: (await machine.writes()) - install };
  } finally {
    await device.remove();
  }
}

function expectWhole(device: BootDevice): 'A' | 'B' {
  const { slot, holds } = device.next();
  expect(WHOLE).toContain(holds);
  if (!slot) throw new Error('no slot starts');
  return slot;
}
