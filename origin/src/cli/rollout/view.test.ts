import { expect, it } from 'vitest';
import { describeFailures, deviceTable, reasonText } from './view.ts';

const group = {
  code: 'healthFailed',
  detail: 'exit code 1',
  hardware: 'rpi4',
  message: 'health: exit code 1: no camera\nand more',
  count: 3,
  sites: 2,
  devices: ['id-1', 'id-2', 'id-3'],
};

it("marks the words of one device as that device's within a group", () => {
  const [, head = '', one = '', other = '', old = ''] = describeFailures({
    names: { 'id-1': 'cam-1', 'id-3': 'cam-3' },
    failures: [
      group,
      {
        ...group,
        detail: 'exit code 7',
        count: 1,
        sites: 1,
        message: 'health: exit code 7: ',
        devices: ['id-9'],
      },
      // From an origin that sends no more than the code.
      { ...group, detail: undefined },
    ],
  });
  expect(head).toMatch(/^FAILED WITH +HARDWARE +DEVICES +SITES +WHAT ONE SAID +ALSO ON$/);
  expect(one).toMatch(
    /^healthFailed, exit code 1 +rpi4 +3 +2 +e\.g\. on cam-1: health: exit code 1: no camera +id-2 cam-3$/,
  );
  expect(other).toMatch(/^healthFailed, exit code 7 +rpi4 +1 +1 +on id-9: health: exit code 7$/);
  expect(old).toMatch(/^healthFailed +rpi4 /);
});

it('does not name an operator where the origin itself may have sent the device back', () => {
  const old = { code: 'ordered', message: 'the operator rolled this rollout back' };
  expect(reasonText(old)).toBe('the rollout was rolled back (ordered)');
});

it.each([
  ['health: exit code 1: no camera', 'health: exit code 1: no camera (healthFailed)'],
  // An agent of 0.1.0 says it so.
  ['health: exit code 1: ', 'health: exit code 1 (healthFailed)'],
  ['', 'healthFailed'],
  ['\n', 'healthFailed'],
])('prints a reason without a gap: %j', (message, text) => {
  expect(reasonText({ code: 'healthFailed', message })).toBe(text);
});

it('shows beside each device what gateways were to send it, and have sent', () => {
  const device = { site: 'north', state: 'completed' as const };
  const transfer = { plannedBytes: 1_258_291, spentBytes: 1_363_149 };
  const [head = '', first = '', second = '', third = ''] = deviceTable([
    { ...device, id: 'one', transfer },
    { ...device, id: 'two', transfer: { ...transfer, isPlanAtMost: true } },
    { ...device, id: 'old' },
  ]);
  expect(head).toMatch(/PROGRESS +FROM GATEWAYS +ITS CLOCK/);
  expect(first).toMatch(/^one .* planned 1\.2 MiB, spent 1\.3 MiB +-/);
  expect(second).toMatch(/^two .* planned at most 1\.2 MiB, spent 1\.3 MiB +-/);
  expect(third).toMatch(/^old +north +completed +-$/);
  expect(deviceTable([{ ...device, id: 'old' }])[0]).not.toContain('FROM GATEWAYS');
});
