import { expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

it('decides on rollouts only with the lead: without it reports are taken in, and counted', async () => {
  const leadership = { isHeld: true, release: async () => {} };
  const harness = await FleetHarness.open(path => ({ ...testDisk(path), leadership }));
  try {
    const [device] = [await harness.device(), await harness.device()];
    const id = String((await harness.startRollout()).id);
    const { rollouts, cohortStore } = harness.origin;
    const stateOf = () => rollouts.require(id).rollout.state;
    leadership.isHeld = false;
    const reason = { code: 'healthFailed', message: '' };
    const failure = { rollout: { id, attempt: 1 }, state: 'failed' as const, reason };
    expect(await device.report(failure)).toMatchObject({ status: 200 });
    await rollouts.checkCompletion();
    expect((await cohortStore.stats(id))?.failed).toBe(1);
    expect(stateOf()).toBe('active');
    leadership.isHeld = true;
    await rollouts.checkCompletion();
    expect(stateOf()).toBe('paused');
  } finally {
    await harness.close();
  }
});
