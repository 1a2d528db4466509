import { expect, it } from 'vitest';
import type { Status } from './state/status.ts';
import { statusText } from './status-text.ts';

const slot = { state: 'empty' as const, path: '/dev/a' };
const status: Status = {
  format: 'sitecast-status-1',
  at: '2030-01-01T00:00:00.000Z',
  pid: 1,
  id: '12D3KooWdevice',
  product: 'camera',
  hardware: 'rpi4',
  enrolment: 'enrolled',
  state: 'idle',
  slots: { A: slot, B: slot },
  update: null,
  barred: [],
  gateways: [],
  metadata: { timestampVersion: 1, clock: 'ok' },
  reports: { pending: 0 },
};
const shown = (said: Partial<Status>) =>
  statusText({ ...status, ...said }, { isAlive: true, nowMs: Date.parse(status.at) }).split('\n');

it('shows the name that the origin gave, and the id beside it', () => {
  const lines = shown({ name: 'cam-7', wish: 'cam-8' });
  expect(lines.slice(0, 2)).toEqual(['device     cam-7', 'id         12D3KooWdevice']);
  expect(lines).toContain('enrolment  enrolled');
});

it('shows a requested name as such until the device is accepted', () => {
  const lines = shown({ wish: 'cam-8', enrolment: 'pending' });
  expect(lines[0]).toBe('device     12D3KooWdevice');
  expect(lines).toContain('enrolment  pending; it wants to be called cam-8');
});
