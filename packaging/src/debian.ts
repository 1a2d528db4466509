import { createHash } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { NODE_LIBRARIES } from './node-runtime.ts';
import { type Role, TOP } from './roles.ts';
import { run } from './run.ts';
import { type Build, maintainer } from './tree.ts';

const SCRIPTS = ['postinst', 'prerm', 'postrm'];

/**
 * Makes the Debian package of a staged tree.
 * @param root holds `usr`
 * @param to the package's path: whole, or not there
 */
export async function makeDeb(
  build: Build,
  root: string,
  { to, level }: { to: string; level: number },
): Promise<void> {
  const { role, epoch } = build;
  const files = await filesOf(join(root, 'usr'));
  const control = join(root, 'DEBIAN');
  await mkdir(control);
  await chmod(control, 0o755);
  const put = async (name: string, text: string, mode: number): Promise<void> => {
    await writeFile(join(control, name), text);
    // Whatever the umask is.
    await chmod(join(control, name), mode);
  };
  await put('md5sums', await checksums(root, files), 0o644);
  await put('control', controlText(build, await kibibytesOf(files)), 0o644);
  for (const name of SCRIPTS) await put(name, await scriptText(role, name), 0o755);
  const unfinished = `${to}.unfinished`;
  // xz cuts its input into the same blocks with one thread and with two.
  const compression = level === 0 ? ['-Znone'] : ['-Zxz', `-z${level}`, '--threads-max=2'];
  const args = ['--root-owner-group', ...compression, '--build', root, unfinished];
  await run('dpkg-deb', args, { env: { SOURCE_DATE_EPOCH: String(epoch) } });
  await rename(unfinished, to);
}

function controlText({ role, architecture, withNode, packageVersion }: Build, kibibytes: number): string {
  const depends = [
    ...(withNode
      ? NODE_LIBRARIES
      : ['nodejs (>= 22.15)', ...(role.nativeModules.length > 0 ? NATIVE_LIBRARIES : [])]),
    ...(role.user === undefined ? [] : ['adduser']),
  ];
  return `Package: ${role.packageName}
Version: ${packageVersion}
Architecture: ${architecture}
Maintainer: ${maintainer()}
Installed-Size: ${kibibytes}
Depends: ${depends.join(', ')}
Section: admin
Priority: optional
Description: ${role.summary}
${role.description.map(line => ` ${line}\n`).join('')}`;
}

/** What the prebuilt native modules are linked to. */
const NATIVE_LIBRARIES = ['libc6 (>= 2.28)', 'libgcc-s1', 'libstdc++6'];

/** The scripts of deploy/debian serve all three packages: what differs are names. */
async function scriptText(role: Role, name: string): Promise<string> {
  const [text, account] = await Promise.all(
    [name, 'account'].map(file => readFile(join(TOP, 'deploy/debian', file), 'utf8')),
  );
  return (text ?? '')
    .replace('@ACCOUNT@\n', () => (role.user === undefined ? '' : (account ?? '')))
    .replaceAll('@PACKAGE@', role.packageName)
    .replaceAll('@USER@', role.user ?? 'root');
}

/** What lintian would find in Node and in native modules, which are shipped as they are. */
export async function stageOverrides({ role, withNode }: Build, root: string): Promise<void> {
  if (!withNode && role.nativeModules.length === 0) return;
  const text = await readFile(join(TOP, 'deploy/debian/lintian-overrides'), 'utf8');
  const folder = join(root, 'usr/share/lintian/overrides');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, role.packageName), text.replaceAll('@PACKAGE@', role.packageName));
}

async function filesOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  return entries
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name))
    .sort();
}

async function checksums(root: string, files: readonly string[]): Promise<string> {
  let text = '';
  for (const file of files) {
    // The format's hash, against damage on a disk; what is installed is checked by the repository's signature.
    const md5 = createHash('md5').update(await readFile(file));
    text += `${md5.digest('hex')}  ${relative(root, file)}\n`;
  }
  return text;
}

async function kibibytesOf(files: readonly string[]): Promise<number> {
  const sizes = await Promise.all(files.map(async file => Math.ceil((await stat(file)).size / 1024)));
  return sizes.reduce((sum, size) => sum + size, 0);
}
