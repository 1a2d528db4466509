import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { isSystemError } from '@sitecast/shared/errors';

const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

/** Something needed isn't there, or a program failed: the message says what to do. */
export class PackagingError extends Error {
  override readonly name = 'PackagingError';
}

interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
}

/** Runs a program to its end. @returns what it printed @throws PackagingError with what it said */
export async function run(
  program: string,
  args: readonly string[],
  { cwd, env = {} }: RunOptions = {},
): Promise<string> {
  try {
    const options = { ...(cwd !== undefined && { cwd }), env: { ...process.env, LC_ALL: 'C.UTF-8', ...env } };
    const { stdout } = await promisify(execFile)(program, [...args], {
      ...options,
      maxBuffer: MAX_OUTPUT_BYTES,
    });
    return stdout;
  } catch (cause) {
    if (isSystemError(cause, 'ENOENT')) throw new PackagingError(`${program} is not installed`, { cause });
    const said = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
    throw new PackagingError(`${program} ${args[0] ?? ''} failed: ${said || String(cause)}`, { cause });
  }
}

/** True where a program can be started. */
export async function isInstalled(program: string): Promise<boolean> {
  try {
    await run(program, ['--version']);
    return true;
  } catch {
    // It isn't there, or doesn't work: the same to whoever asks.
    return false;
  }
}
