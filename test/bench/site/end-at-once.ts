import { rmSync } from 'node:fs';
import { constants } from 'node:os';
import { SiteNet } from './net.ts';

/** After Ctrl-C, removes networks, processes and files. */
export function endAtOnce(scratch: string): { forget: () => void } {
  const end = (signal: NodeJS.Signals): void => {
    SiteNet.closeAll();
    rmSync(scratch, { recursive: true, force: true });
    process.exit(128 + constants.signals[signal]);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.once(signal, end);
  return {
    forget: () => {
      for (const signal of signals) process.off(signal, end);
    },
  };
}
