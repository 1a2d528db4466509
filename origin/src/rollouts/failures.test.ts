import { expect, it } from 'vitest';
import type { Member } from '../fleet/member.ts';
import { FailureGroups } from './status.ts';

const member = (id: string, changes: Partial<Member> = {}): Member => ({
  id,
  kind: 'device',
  site: 'north',
  tags: {},
  serial: 1,
  enrolledAt: '2030-01-01T00:00:00.000Z',
  changedAt: '2030-01-01T00:00:00.000Z',
  letInBy: { operator: 'test' },
  hardware: 'rpi4',
  ...changes,
});

it('groups failures with the same code and exit code on the same hardware', () => {
  const groups = new FailureGroups();
  const health = (message: string) => ({ code: 'healthFailed', message: `health: ${message}` });
  groups.add(member('a'), health('exit code 1: no camera'));
  groups.add(member('b', { site: 'south' }), health('exit code 1: no route to host'));
  groups.add(member('c'), health('exit code 1: '));
  groups.add(member('d'), health('exit code 7: no camera'));
  groups.add(member('e'), health('exit code none: killed'));
  groups.add(member('f'), health('not done after 300 s: still: exit code 1: said by itself'));
  groups.add(member('g', { hardware: 'rpi5' }), health('exit code 1: no camera'));
  groups.add(member('h'), { code: 'bootCountExhausted', message: 'slot B did not prove itself' });
  groups.add(member('i'), { code: 'SITECAST_BOOT_COMMAND_FAILED', message: "'get' failed: exit code 4: ?" });
  const found = groups.list();
  expect(found[0]).toEqual({
    code: 'healthFailed',
    detail: 'exit code 1',
    hardware: 'rpi4',
    // The message of the first device.
    message: 'health: exit code 1: no camera',
    count: 3,
    sites: 2,
    devices: ['a', 'b', 'c'],
  });
  const rest = Object.fromEntries(
    found.slice(1).map(({ code, detail, devices }) => [devices.join(), [code, detail]]),
  );
  expect(rest).toEqual({
    d: ['healthFailed', 'exit code 7'],
    e: ['healthFailed', 'exit code none'],
    f: ['healthFailed', 'not done after 300 s'],
    g: ['healthFailed', 'exit code 1'],
    h: ['bootCountExhausted', undefined],
    i: ['SITECAST_BOOT_COMMAND_FAILED', 'exit code 4'],
  });
});

it('names the first of many devices, and has no text of theirs in the name of a group', () => {
  const groups = new FailureGroups();
  for (let at = 0; at < 60; at += 1)
    groups.add(member(`d${at}`), { code: `code${at % 55}`, message: 'exit code 12345: x' });
  const found = groups.list();
  expect(found).toHaveLength(50);
  expect(found.every(({ detail }) => detail === undefined)).toBe(true);
  for (let at = 0; at < 9; at += 1) groups.add(member(`e${at}`), { code: 'code0', message: '' });
  expect(groups.list()[0]?.devices).toEqual(['d0', 'd55', 'e0', 'e1', 'e2']);
});
