import type { Report } from '@sitecast/shared/fleet';
import { expect, it } from 'vitest';
import { type Memory, newMemory, type Update } from './memory.ts';
import { rememberedBoot } from './remembered-boot.ts';

const release = { counter: 2, version: '2.0.0' };
const rollout = { id: '00000000000000aa', attempt: 1 };
const updating = (phase: Update['phase']): Memory => ({
  ...newMemory(),
  booted: 'A',
  update: { kind: 'install', rollout, release, target: 'B', phase, startedAt: '2030-01-01T00:00:00Z' },
});
const said = (state: Report['state'], slot: 'A' | 'B', counter: number): Report => ({
  format: 'sitecast-report-1',
  id: 'x',
  epoch: '0'.repeat(16),
  seq: 1,
  previous: null,
  at: '2030-01-01T00:00:00Z',
  timestampVersion: 1,
  state,
  rollout,
  release,
  booted: { slot, release: { counter, version: 'v' } },
});

it('is the slot that ran, while nothing was told to the loader or it was given up', () => {
  expect(rememberedBoot({ ...newMemory(), booted: 'A' }, false, undefined)).toEqual({ slots: ['A'] });
  // Its bytes are being replaced: it must not run.
  for (const phase of ['downloading', 'verified', 'fallingBack'] as const)
    expect(rememberedBoot(updating(phase), false, said('confirming', 'B', 2))).toEqual({ slots: ['A'] });
});

it('is the slot on trial, too, from when the loader is told of it; and before all once it was proved', () => {
  for (const phase of ['activating', 'rebooting', 'confirming'] as const)
    expect(rememberedBoot(updating(phase), false, undefined)).toEqual({ slots: ['A', 'B'], onTrial: 'B' });
  expect(rememberedBoot(updating('confirmed'), false, undefined)).toEqual({
    slots: ['B', 'A'],
    onTrial: 'B',
  });
});

it('goes by the newest report where the memory is lost: what its copy says of an update may be long over', () => {
  const kept = updating('confirming');
  expect(rememberedBoot(kept, true, said('idle', 'A', 1))).toEqual({ slots: ['A'] });
  expect(rememberedBoot(kept, true, said('completed', 'B', 2))).toEqual({ slots: ['B', 'A'] });
  expect(rememberedBoot(kept, true, said('rebooting', 'A', 1))).toEqual({ slots: ['A', 'B'], onTrial: 'B' });
  expect(rememberedBoot(kept, true, said('confirming', 'B', 2))).toEqual({ slots: ['B', 'A'], onTrial: 'B' });
  expect(rememberedBoot(kept, true, undefined)).toEqual({ slots: ['A'] });
  expect(rememberedBoot(newMemory(), false, undefined)).toEqual({ slots: [] });
});
