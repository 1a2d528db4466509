import { expect, it } from 'vitest';
import { type Status, StatusBoard } from './state/status.ts';
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

it('says of a slot that Sitecast has never installed that its content is not known, not that it was altered', () => {
  const { slots } = status;
  const lines = shown({
    booted: 'A',
    slots: { ...slots, B: { path: '/dev/b', state: 'altered', isConfirmed: true } },
  });
  expect(lines.find(line => line.startsWith('slot B'))).toMatch(
    /other +unknown +no known release +\/dev\/b$/,
  );
  expect(lines).toContain('           as far as this agent knows, Sitecast has not installed what is there');
  const installed = { path: '/dev/b', state: 'altered' as const, indexSha256: 'a'.repeat(64) };
  expect(shown({ slots: { ...slots, B: installed } }).join()).toMatch(/other +altered/);
});

it('no longer shows what it waited for once it does something else', () => {
  const board = new StatusBoard('/nonexistent/status.json', status);
  board.set({ state: 'waiting', waitingFor: 'space', message: 'no room' });
  board.set({ message: 'no room at all' });
  expect(statusText(board.current, { isAlive: true, nowMs: 0 })).toContain(
    'waiting (for space): no room at all',
  );
  board.set({ state: 'downloading', message: 'fetching 2.0.0' });
  expect(statusText(board.current, { isAlive: true, nowMs: 0 })).toContain(
    'state      downloading: fetching',
  );
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
  const text = shown({ state: 'downloading', ways: { ...ways, files: 1024, spentBytes: 1024 } }).join('\n');
  expect(text).toContain(`plan       the image of 3.0 MiB, as far as it is known before it is there:
             2.0 MiB  copied from the slot that runs
             1.0 MiB  made of the slot that runs, by patches of 2.0 KiB
           about 3.0 KiB from gateways, or from other devices of the site; gateways have sent 1.0 KiB for it until now, 4.0 KiB in all
`);
  const unknown = { ...ways, patched: 0, patches: 0, fetched: 1_048_576, frames: 1_048_576 };
  expect(shown({ ways: { ...unknown, framesBy: 'plain', spentBytes: 0 } }).join('\n')).toContain(
    `             1.0 MiB  fetched, compressed to an unknown length
           at most 1.0 MiB from gateways`,
  );
});

it('shows what an update was to cost beside what it has cost, and what was not counted as such', () => {
  const transfer = { counter: 2, version: '2.0.0', plannedBytes: 1_258_291, spentBytes: 1_363_149 };
  expect(shown({ transfer })).toContain('bytes      2.0.0 from gateways: planned 1.2 MiB, spent 1.3 MiB');
  expect(shown({ transfer: { ...transfer, isPlanAtMost: true, uncountedBytes: 4096 } }).join('\n')).toContain(
    'planned at most 1.2 MiB, spent 1.3 MiB (and 4.0 KiB more at most: the agent was killed',
  );
});
