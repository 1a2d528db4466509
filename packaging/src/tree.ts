import { chmod, cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { apacheText, bundledPackages, copyrightText, licenceOf } from './licences.ts';
import { manPage } from './man-page.ts';
import { closureOf, copyModule } from './native-modules.ts';
import { unpackNode } from './node-runtime.ts';
import type { Architecture } from './options.ts';
import { type Role, TOP } from './roles.ts';
import { PackagingError } from './run.ts';
import { type Install, unitText } from './unit.ts';

export interface Build {
  role: Role;
  /** `all` where nothing in it depends on the processor. */
  architecture: Architecture | 'all';
  withNode: boolean;
  /** Sitecast's, from package.json. */
  version: string;
  /** The packages': it says, too, whether Node is inside. */
  packageVersion: string;
  /** Short hash of the commit. */
  commit: string;
  /** Seconds since 1970: the time of every file. */
  epoch: number;
}

/** Where the parts of a package lie below `/usr` or `/usr/local`. */
const libraryOf = (role: Role): string => `lib/${role.packageName}`;
const docOf = (role: Role): string => `share/doc/${role.packageName}`;
const unitOf = (role: Role): string => `lib/systemd/system/${role.packageName}.service`;

/** Files that the tarball has, too: all but what `dpkg` needs. @param usr an empty directory that becomes `/usr` */
export async function stageTree(build: Build, usr: string): Promise<void> {
  const [library, doc] = [join(usr, libraryOf(build.role)), join(usr, docOf(build.role))];
  await stageCode(build, library);
  await stageDocs(build, doc);
  if (build.withNode) {
    await writeCompressed(join(doc, 'LICENSE.node.gz'), await readFile(join(library, 'LICENSE'), 'utf8'));
    await rm(join(library, 'LICENSE'));
  }
  for (const command of build.role.commands)
    await writeCompressed(
      join(usr, `share/man/man${command.section}/${command.name}.${command.section}.gz`),
      await manPage(command, build),
    );
}

/** What depends on where it is installed: the commands of the PATH, and the unit. */
export async function stageInstall({ role, withNode }: Build, usr: string, install: Install): Promise<void> {
  for (const { name } of role.commands) {
    const path = join(usr, 'bin', name);
    await write(
      path,
      install === 'debian' ? debianCommand(role, name, withNode) : anyCommand(role, name, withNode),
    );
    await chmod(path, 0o755);
  }
  await write(join(usr, unitOf(role)), await unitText(role, install));
}

/** Starts the bin stub, and becomes it: one process, which gets the signals. */
const debianCommand = (role: Role, name: string, withNode: boolean): string => {
  const library = `/usr/${libraryOf(role)}`;
  return `#!/bin/sh\nexec ${withNode ? `${library}/node` : '/usr/bin/node'} ${library}/bin/${name}.js "$@"\n`;
};

/** The same, wherever the tarball was unpacked, and also by way of a symbolic link. */
const anyCommand = (role: Role, name: string, withNode: boolean): string => `#!/bin/sh
self=$(readlink -f "$0") || exit 1
library=\${self%/bin/*}/${libraryOf(role)}
exec ${withNode ? '"$library/node"' : 'node'} "$library/bin/${name}.js" "$@"
`;

async function stageCode({ role, architecture, withNode, version }: Build, library: string): Promise<void> {
  for (const { name } of role.commands) {
    // The commands of the PATH start it, with the right Node.
    const stub = await readFile(join(TOP, role.name, 'bin', `${name}.js`), 'utf8');
    await write(join(library, 'bin', `${name}.js`), stub.replace(/^#!.*\n/, ''));
  }
  // Source maps are left out: nothing reads them unless Node is told to.
  for (const name of await builtFiles(role))
    await copy(join(TOP, role.name, 'bundle', name), join(library, 'bundle', name));
  const manifest = { name: role.packageName, version, type: 'module', license: 'Apache-2.0' };
  await write(join(library, 'package.json'), `${JSON.stringify(manifest)}\n`);
  if (architecture === 'all') return;
  for (const folder of await closureOf(role.nativeModules)) await copyModule(folder, library, architecture);
  if (!withNode) return;
  await unpackNode(architecture, library);
}

async function builtFiles(role: Role): Promise<string[]> {
  const files = await readdir(join(TOP, role.name, 'bundle')).catch((cause: unknown) => {
    throw new PackagingError(`${role.name}/bundle is missing: run npm run build first`, { cause });
  });
  return files.filter(name => name.endsWith('.js')).sort();
}

async function stageDocs({ role, withNode, ...build }: Build, doc: string): Promise<void> {
  const folders = [...(await bundledPackages(role.name)), ...(await closureOf(role.nativeModules))];
  const parties = await Promise.all(folders.map(licenceOf));
  await write(join(doc, 'copyright'), copyrightText(role, parties, withNode));
  await write(join(doc, 'Apache-2.0.txt'), await apacheText());
  for (const page of role.pages)
    await writeCompressed(join(doc, `${page}.gz`), await readFile(join(TOP, 'docs', page), 'utf8'));
  await copy(join(TOP, `deploy/etc/${role.name}.yaml`), join(doc, `examples/${role.name}.yaml`));
  if (role.name === 'agent')
    await cp(join(TOP, 'deploy/boot'), join(doc, 'examples/boot'), { recursive: true });
  await writeCompressed(join(doc, 'changelog.gz'), changelog(role, build));
}

/** Debian's form (deb-changelog(5)). The history is the repository's. */
function changelog(
  role: Role,
  { packageVersion, commit, epoch }: Pick<Build, 'packageVersion' | 'commit' | 'epoch'>,
): string {
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  return `${role.packageName} (${packageVersion}) unstable; urgency=medium

  * Built of commit ${commit}.

 -- ${maintainer()}  ${date}
`;
}

/** Debian's variables for it; whoever publishes packages sets them. */
export const maintainer = (): string =>
  `${process.env.DEBFULLNAME ?? 'Sitecast developers'} <${process.env.DEBEMAIL ?? 'sitecast@packages.invalid'}>`;

async function copy(from: string, to: string): Promise<void> {
  await write(to, await readFile(from));
}

async function write(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
}

/** gzip without a name and a time, as `gzip -9n` does it. */
const writeCompressed = (path: string, text: string): Promise<void> =>
  write(path, gzipSync(text, { level: 9 }));
