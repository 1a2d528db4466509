import type { SlotName } from '../ports.ts';

export interface Finding {
  /** `problem`: updates won't work, or not safely. `warning`: there is a case in which the device can't recover by itself. */
  level: 'ok' | 'warning' | 'problem';
  text: string;
}

/** Facts about the machine from other sources than the boot control. */
export interface MachineFacts {
  /** The slot according to the kernel or the root file system; undefined where neither says it. */
  booted: SlotName | undefined;
  /** The slot that the kernel's command line names. */
  said: SlotName | undefined;
  /** The slot whose device has the root file system. */
  root: SlotName | undefined;
  watchdogs: readonly Watchdog[];
  /** The kernel's command line. */
  words: readonly string[];
  /** For how many seconds the kernel itself feeds an armed watchdog that no process has opened; 0: for ever. */
  openTimeoutS: number | undefined;
}

export interface Watchdog {
  /** Such as `watchdog0`. */
  name: string;
  /** The driver's name for it. */
  identity: string;
}
