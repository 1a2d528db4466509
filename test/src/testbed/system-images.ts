import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Built once, and kept: a run takes what lies there. */
const CACHE = process.env.SITECAST_TRIALS_CACHE ?? join(homedir(), '.cache', 'sitecast-trials');
const SUITE = 'bookworm';
/** Without it debootstrap takes its own. */
const MIRROR = process.env.DEBIAN_MIRROR;
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const BUILD_MS = 900_000;
const EXT4_BYTES = 512 * 1024 * 1024;
/** Fixed, as in a reproducible build: two images differ in what was changed alone. */
const UUID = '6f1d9a2e-5d57-4c59-9d0c-0123456789ab';
const EPOCH_S = '1700000000';

export const IMAGE_FORMATS = ['ext4', 'squashfs'] as const;
type ImageFormat = (typeof IMAGE_FORMATS)[number];

/** Runs a program of the system; its own output is shown where it fails. */
function system(program: string, ...args: string[]): void {
  const env = { ...process.env, PATH, SOURCE_DATE_EPOCH: EPOCH_S, E2FSPROGS_FAKE_TIME: EPOCH_S };
  execFileSync(program, args, { stdio: 'pipe', env, timeout: BUILD_MS });
}

/**
 * A Debian minimal system as two images: as it was installed, and with a changed file.
 * @throws where it can't be installed: without root, debootstrap or a mirror
 */
export function debianImages(format: ImageFormat): [string, string] {
  const root = built(`debian-${SUITE}`, path =>
    system('debootstrap', '--variant=minbase', SUITE, path, ...(MIRROR === undefined ? [] : [MIRROR])),
  );
  const image = (version: number): string =>
    built(`debian-${SUITE}-${version}.${format}`, path => {
      writeFileSync(join(root, 'etc', 'sitecast-release'), `version ${version}\n`.repeat(100));
      if (format === 'ext4') {
        writeFileSync(path, '');
        truncateSync(path, EXT4_BYTES);
        system('mke2fs', '-q', '-F', '-t', 'ext4', '-U', UUID, '-E', `hash_seed=${UUID}`, '-d', root, path);
      } else system('mksquashfs', root, path, '-noappend', '-quiet', '-no-progress');
    });
  return [image(1), image(2)];
}

/** @returns the path in the cache; what a killed build leaves there has another name */
function built(name: string, build: (path: string) => void): string {
  const path = join(CACHE, name);
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const aside = `${path}.building`;
  rmSync(aside, { recursive: true, force: true });
  build(aside);
  renameSync(aside, path);
  return path;
}
