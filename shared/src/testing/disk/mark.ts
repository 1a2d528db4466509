import { accessSync } from 'node:fs';

export const MARK = '/sitecast-mark/';

/** Says to whoever records this process's system calls how far it is. */
export function mark(name: string): void {
  try {
    accessSync(MARK + name);
  } catch {
    // It isn't there: only the question counts.
  }
}
