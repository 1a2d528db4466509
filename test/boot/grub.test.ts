import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BootTestbed, NEXT, OLD } from './testbed/boot-testbed.ts';
import { whyNoMachine } from './testbed/needs.ts';

/** docs/BOOT.md: the first start, and one more for a power cut. */
const TRIES = 2;
const ENVIRONMENT_BYTES = 1024;
const why = whyNoMachine();

describe.skipIf(why !== '')(`a machine with GRUB${why}`, () => {
  let testbed: BootTestbed;
  beforeAll(async () => {
    testbed = await BootTestbed.open();
  });
  afterAll(() => testbed.close());

  it('installs a good release, boots it, confirms it, reports it; then starts the confirmed slot without its environment, too', async () => {
    const rollout = await testbed.publish('good', 'good');
    const device = testbed.makeDevice('good', rollout);
    try {
      const machine = device.powerOn();
      await machine.shows(/INIT slot A runs release 1\.0\.0/);
      await machine.shows(/INIT slot B runs release 2\.0\.0/);
      await device.reports('completed');
      expect(startsOf('B', machine.output)).toBe(1);
      const last = { state: 'completed', release: { version: NEXT }, booted: { slot: 'B' } };
      expect(await device.told()).toMatchObject({ last });
      await device.cutPower();
      expect(device.next()).toEqual({ slot: 'B', holds: `${NEXT} good`, by: 'grubenv' });

      const damages = {
        emptied: Buffer.alloc(0),
        damaged: randomBytes(ENVIRONMENT_BYTES),
        removed: undefined,
      };
      for (const [what, content] of Object.entries(damages)) {
        device.disk.replaceEnvironment(content);
        const again = device.powerOn();
        await again.shows(/Sitecast: order B \(lost: the confirmed slot\)/);
        await again.shows(/INIT slot B runs release 2\.0\.0/);
        await again.shows(/ idle\b/);
        await device.cutPower();
        // The agent has written the environment anew.
        const next = { slot: 'B', holds: `${NEXT} good`, by: 'grubenv' };
        expect({ what, next: device.next() }).toEqual({ what, next });
      }
    } finally {
      await device.remove();
    }
  });

  it.each([
    { behaviour: 'hang', signs: /INIT slot B hangs/g },
    { behaviour: 'panic', signs: /Kernel panic - not syncing: Attempted to kill init/g },
    { behaviour: 'no-mount', signs: /INITRAMFS can't mount \/dev\/vda3/g },
  ] as const)('leaves a release after exactly its tries: $behaviour', async ({ behaviour, signs }) => {
    const { output, device } = await failedUpdate(behaviour);
    expect(output).toContain(`B ok=0 left=${TRIES}`);
    expect(startsOf('B', output)).toBe(TRIES);
    expect(output.match(signs)).toHaveLength(TRIES);
    expect(device).toMatchObject({
      last: { state: 'rolledBack', reason: { code: 'bootCountExhausted' }, booted: { slot: 'A' } },
    });
  });

  it('leaves a release whose kernel does not load at once, without another boot', async () => {
    const { output, device } = await failedUpdate('no-kernel');
    expect(startsOf('B', output)).toBe(1);
    expect(output).toMatch(/Sitecast: slot B does not load\s+Sitecast: starting slot A/);
    expect(device).toMatchObject({
      last: { state: 'rolledBack', reason: { code: 'bootCountExhausted' }, booted: { slot: 'A' } },
    });
  });

  /** Rolls out a release that doesn't run, until the device has reported that it went back. */
  async function failedUpdate(behaviour: 'hang' | 'panic' | 'no-mount' | 'no-kernel') {
    const rollout = await testbed.publish(behaviour, behaviour);
    const device = testbed.makeDevice(behaviour, rollout);
    try {
      const machine = device.powerOn();
      await machine.shows(/INIT slot A runs release 1\.0\.0/);
      await machine.shows(/Sitecast: starting slot B/);
      await machine.shows(/INIT slot A runs release 1\.0\.0/);
      await device.reports('rolledBack');
      const told = await device.told();
      await device.cutPower();
      expect(device.next()).toMatchObject({ slot: 'A', holds: `${OLD} good` });
      return { output: machine.output, device: told };
    } finally {
      await device.remove();
    }
  }
});

function startsOf(slot: 'A' | 'B', output: string): number {
  return output.split(`Sitecast: starting slot ${slot}`).length - 1;
}
