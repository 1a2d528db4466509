import { spawnSync } from 'node:child_process';

/** A program that Debian has and npm hasn't: tests that need it say so and skip, but never in CI. */
export interface DebianTool {
  isMissing: boolean;
  /** For a test's name. */
  why: string;
}

/** @throws in CI, where `.ci/run` must have installed it */
export function debianTool(name: string, packageName = name): DebianTool {
  const isMissing =
    spawnSync('sh', ['-c', `command -v ${name}`], {
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
    }).status !== 0;
  if (!isMissing) return { isMissing, why: '' };
  if (process.env.CI) throw new Error(`${name} is missing: .ci/run must install ${packageName}`);
  const why = ` (skipped: ${name} is not installed; apt-get install ${packageName})`;
  process.stderr.write(
    `${name} is not installed: tests that need it are skipped. apt-get install ${packageName}\n`,
  );
  return { isMissing, why };
}
