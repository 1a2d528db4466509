import type { BootState } from '../ports.ts';
import type { Update } from './memory.ts';

/** What a start of the agent means for an update that was being activated. */
export type BootVerdict =
  /** The boot that was asked for hasn't happened: ask again. */
  | 'askAgain'
  /** The slot runs for the first time. */
  | 'firstBoot'
  /** The agent started again within the boot that it was proving. */
  | 'sameBoot'
  /** The power went while the slot was proving itself: it's tried once more. */
  | 'powerLoss'
  /** The loader has given the slot up. */
  | 'bootCountExhausted'
  /** The slot was given up and the other one runs. */
  | 'fellBack';

/** Pure: from what was noted before the boot and what the loader says now. */
export function bootVerdict(
  update: Pick<Update, 'phase' | 'target' | 'bootId'>,
  boot: BootState,
): BootVerdict {
  const isSameBoot = update.bootId === boot.bootId;
  const isOnTarget = boot.booted === update.target;
  if (update.phase === 'fallingBack') return isOnTarget ? 'askAgain' : 'fellBack';
  if (!isOnTarget) return isSameBoot && update.phase === 'rebooting' ? 'askAgain' : 'bootCountExhausted';
  if (update.phase === 'rebooting') return isSameBoot ? 'askAgain' : 'firstBoot';
  return isSameBoot ? 'sameBoot' : 'powerLoss';
}
