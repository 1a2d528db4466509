import type { BootState } from '../ports.ts';
import type { Update } from './memory.ts';

/** What a start of the agent means for an update that was being activated. */
export type BootVerdict =
  /** The loader wasn't told yet, or the power went before it took note: nothing has happened. */
  | 'notTold'
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
  /** It had proved itself when the agent ended; the loader may not know yet. */
  | 'confirmed'
  /** The slot was given up and the other one runs. */
  | 'fellBack';

/** Pure: from what was noted before the boot and what the loader says now. */
export function bootVerdict(
  update: Pick<Update, 'phase' | 'target' | 'bootId'>,
  boot: BootState,
): BootVerdict {
  const isSameBoot = update.bootId === boot.bootId;
  const isOnTarget = boot.booted === update.target;
  switch (update.phase) {
    case 'downloading':
    case 'verified':
      return 'notTold';
    case 'activating':
      return isOnTarget ? 'firstBoot' : 'notTold';
    case 'rebooting':
      if (isSameBoot) return 'askAgain';
      return isOnTarget ? 'firstBoot' : 'bootCountExhausted';
    case 'confirming':
      if (!isOnTarget) return 'bootCountExhausted';
      return isSameBoot ? 'sameBoot' : 'powerLoss';
    case 'confirmed':
      return isOnTarget ? 'confirmed' : 'bootCountExhausted';
    case 'fallingBack':
      return isOnTarget ? 'askAgain' : 'fellBack';
  }
}
