import { readFileSync, readlinkSync } from 'node:fs';

/** Linux counts the CPU time of threads in hundredths of a second (USER_HZ) on every architecture that Node runs on. */
const MS_A_TICK = 10;
/** Fields of /proc/…/stat behind the name of the command: user and system time (proc(5), fields 14 and 15). */
const USER_TIME_AT = 11;
const SYSTEM_TIME_AT = 12;

/** The file that counts the CPU time of the calling thread; undefined on a system without such a file. */
export function ownCpuFile(): string | undefined {
  try {
    return `/proc/${readlinkSync('/proc/thread-self')}/stat`;
  } catch {
    return undefined;
  }
}

/** CPU time of a thread, in milliseconds; undefined where the file is missing, for example because the thread has ended. */
export function cpuMsOf(file: string | undefined): number | undefined {
  if (file === undefined) return undefined;
  try {
    const text = readFileSync(file, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[USER_TIME_AT]) + Number(fields[SYSTEM_TIME_AT])) * MS_A_TICK;
  } catch {
    return undefined;
  }
}
