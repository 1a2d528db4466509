import { fstatSync } from 'node:fs';

const STDERR = 2;

/** Whether the service manager has connected standard error to the journal: systemd.exec(5), `$JOURNAL_STREAM`. */
export function isStderrJournal(stream = process.env.JOURNAL_STREAM): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(STDERR, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    // Standard error is closed.
    return false;
  }
}
