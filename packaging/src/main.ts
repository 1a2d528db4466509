// npm run package: a Debian package and a tarball of each role.
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isSystemError } from '@sitecast/shared/errors';
import { z } from 'zod';
import { makeDeb, stageOverrides } from './debian.ts';
import { closureOf, missingNative } from './native-modules.ts';
import {
  type Architecture,
  ARCHITECTURES,
  type Format,
  HELP,
  type Options,
  parseOptions,
  UsageError,
} from './options.ts';
import { type Role, ROLES, TOP } from './roles.ts';
import { isInstalled, PackagingError, run } from './run.ts';
import { type Build, stageInstall, stageTree } from './tree.ts';

const FAILED = 1;
const WRONG_USAGE = 2;

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(`${HELP}\n`);
    return;
  }
  const formats = await usableFormats(options);
  const source = await readSource();
  const out = resolve(options.out);
  await mkdir(out, { recursive: true });
  for (const name of options.roles)
    for (const architecture of await architecturesOf(ROLES[name], options)) {
      const packageVersion = options.withNode ? source.version : `${source.version}+nodejs`;
      const build = {
        ...source,
        role: ROLES[name],
        architecture,
        withNode: options.withNode,
        packageVersion,
      };
      for (const path of await makeOne(build, { formats, level: options.level, out }))
        process.stdout.write(`${path}\n`);
    }
}

async function usableFormats({ formats }: Options): Promise<readonly Format[]> {
  if (await isInstalled('dpkg-deb')) return formats ?? ['deb', 'tar'];
  if (formats?.includes('deb'))
    throw new PackagingError('dpkg-deb is not installed: apt-get install dpkg, or --format tar');
  process.stderr.write('dpkg-deb is not installed: tarballs only\n');
  return ['tar'];
}

/**
 * Without Node and native modules one package serves all processors.
 * @throws PackagingError where one was asked for that can't be made
 */
async function architecturesOf(
  role: Role,
  { withNode, architectures }: Options,
): Promise<(Architecture | 'all')[]> {
  if (!withNode && role.nativeModules.length === 0) return ['all'];
  const folders = await closureOf(role.nativeModules);
  const possible: Architecture[] = [];
  for (const architecture of architectures ?? ARCHITECTURES) {
    const missing = await missingNative(folders, architecture);
    if (missing === undefined) possible.push(architecture);
    const message = `${role.packageName} for ${architecture} can't be made: ${missing}`;
    if (missing !== undefined && architectures !== undefined) throw new PackagingError(message);
    if (missing !== undefined) process.stderr.write(`${message}\n`);
  }
  return possible;
}

/** What is packaged, and its time. @throws PackagingError outside of a repository, unless SOURCE_DATE_EPOCH says when */
async function readSource(): Promise<Pick<Build, 'version' | 'commit' | 'epoch'>> {
  const manifest: unknown = JSON.parse(await readFile(join(TOP, 'package.json'), 'utf8'));
  const { version } = z.looseObject({ version: z.string() }).parse(manifest);
  const given = process.env.SOURCE_DATE_EPOCH;
  if (given !== undefined && !/^\d{1,10}$/.test(given))
    throw new UsageError(`SOURCE_DATE_EPOCH=${given}: expected seconds since 1970`);
  const shown = await run('git', ['log', '-1', '--format=%h %ct'], { cwd: TOP }).catch((cause: unknown) => {
    if (given !== undefined) return `unknown ${given}`;
    throw new PackagingError('this is no git checkout: set SOURCE_DATE_EPOCH to the time of its sources', {
      cause,
    });
  });
  const [commit = '', committed = ''] = shown.trim().split(' ');
  return { version, commit, epoch: Number(given ?? committed) };
}

/** @returns the paths of what was made */
async function makeOne(
  build: Build,
  { formats, level, out }: { formats: readonly Format[]; level: number; out: string },
): Promise<string[]> {
  const { role, architecture, packageVersion } = build;
  const root = await mkdtemp(join(out, '.staging-'));
  const usr = join(root, 'usr');
  const made: string[] = [];
  try {
    await stageTree(build, usr);
    if (formats.includes('deb')) {
      await stageInstall(build, usr, 'debian');
      await stageOverrides(build, root);
      await settleModes(root);
      const to = join(out, `${role.packageName}_${packageVersion}_${architecture}.deb`);
      await makeDeb(build, root, { to, level });
      made.push(to);
    }
    if (formats.includes('tar')) {
      await stageInstall(build, usr, 'local');
      await settleModes(root);
      const name = `${role.packageName}-${packageVersion}-linux-${architecture}`;
      const to = join(out, level === 0 ? `${name}.tar` : `${name}.tar.xz`);
      await makeTarball(build, root, { name, to, level });
      made.push(to);
    }
  } finally {
    await rm(root, { recursive: true, force: true });
  }
  return made;
}

/** @param name the folder that it unpacks to */
async function makeTarball(
  { epoch }: Build,
  root: string,
  { name, to, level }: { name: string; to: string; level: number },
): Promise<void> {
  const owner = ['--owner=0', '--group=0', '--numeric-owner'];
  const times = [`--mtime=@${epoch}`, '--sort=name', '--format=gnu'];
  const place = [`--transform=s,^usr,${name},`, '--exclude=usr/share/lintian', '-C', root, 'usr'];
  const unfinished = `${to}.unfinished`;
  const compression = level === 0 ? [] : ['-I', `xz -${level} -T2`];
  await run('tar', [...compression, ...owner, ...times, '-cf', unfinished, ...place]);
  await rename(unfinished, to);
}

/** Modes that don't depend on the umask of who builds. */
async function settleModes(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await settleModes(path);
    else await chmod(path, (await lstat(path)).mode & 0o100 ? 0o755 : 0o644);
  }
}

try {
  await main();
} catch (error) {
  // A full disk, or a folder that can't be written, is said in a line, too.
  if (!(error instanceof UsageError || error instanceof PackagingError || isSystemError(error))) throw error;
  const hint = error instanceof UsageError ? '\nnpm run package -- --help lists the options' : '';
  process.stderr.write(`npm run package: ${error.message}${hint}\n`);
  process.exitCode = error instanceof UsageError ? WRONG_USAGE : FAILED;
}
