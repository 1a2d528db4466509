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

it('shows how an image comes into its slot, without ways that give nothing, and what was spent', () => {
  const none = { inPlace: 0, zero: 0, booted: 0, other: 0, patched: 0, fetched: 0, patches: 0, frames: 0 };
  const ways = {
    ...none,
    image: 3_145_728,
    booted: 2_097_152,
    patched: 1_048_576,
    patches: 2048,
    isEstimate: true,
  };
  expect(shown({ state: 'downloading', ways: { ...ways, spentBytes: 1024 } })).toContain(
    'plan       3.0 MiB, as estimated: 2.0 MiB from the booted slot, 1.0 MiB by patches of 2.0 KiB; 1.0 KiB spent until then',
  );
});
