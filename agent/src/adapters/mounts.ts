import { readFile } from 'node:fs/promises';

/** A line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export interface Mount {
  /** `MAJOR:MINOR` of the file system. */
  device: string;
  /** Absolute. */
  mountPoint: string;
  /** The file system's type: `ext4`, `tmpfs` … */
  type: string;
  /** What was mounted, in the file system's own words: a device's path, or any text. */
  source: string;
}

/** All mounts that this process sees, in the order of mounting; empty where the system doesn't say. */
export async function readMounts(): Promise<Mount[]> {
  return mountsOf(await textOf('/proc/self/mountinfo'));
}

/** Mount points in /etc/fstab. */
export async function readMountPointsOfFstab(): Promise<string[]> {
  return mountPointsOf(await textOf('/etc/fstab'));
}

export function mountsOf(mountinfo: string): Mount[] {
  return mountinfo.split('\n').flatMap(line => {
    const [before = '', after = ''] = line.split(' - ');
    const [, , device, , mountPoint] = before.split(' ');
    const [type = '', source] = after.split(' ');
    if (device === undefined || mountPoint === undefined || source === undefined) return [];
    return [{ device, mountPoint: unescaped(mountPoint), type, source: unescaped(source) }];
  });
}

export function mountPointsOf(fstab: string): string[] {
  return fstab.split('\n').flatMap(line => {
    const [source = '', mountPoint = ''] = line.trim().split(/\s+/);
    const isEntry = source !== '' && !source.startsWith('#') && mountPoint.startsWith('/');
    return isEntry ? [trimmed(unescaped(mountPoint))] : [];
  });
}

/** The mount that a path belongs to. @param path absolute, without symbolic links */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  let found: Mount | undefined;
  for (const mount of mounts) {
    // Of two mounts at the same place, the later one hides the other.
    const isDeeper = mount.mountPoint.length >= (found?.mountPoint.length ?? 0);
    if (isDeeper && isWithin(path, mount.mountPoint)) found = mount;
  }
  return found;
}

/** Whether a path is below a directory or equal to it; both absolute. */
export function isWithin(path: string, directory: string): boolean {
  return directory === '/' || path === directory || path.startsWith(`${directory}/`);
}

/** Both files write blanks and backslashes as \040 and so on. */
function unescaped(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCodePoint(Number.parseInt(octal, 8)),
  );
}

function trimmed(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    // Not every system has the file. Then nothing is concluded.
    return '';
  }
}
