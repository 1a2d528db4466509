import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Architecture } from './options.ts';
import { TOP } from './roles.ts';
import { PackagingError } from './run.ts';

/** Needed to compile a native module, and never loaded. */
const FOR_COMPILING = new Set(['napi-macros', 'node-addon-api']);
/** The folder of prebuildify, and e_machine of elf(5). */
const PLATFORMS: Record<Architecture, { name: string; elfMachine: number }> = {
  amd64: { name: 'linux-x64', elfMachine: 62 },
  arm64: { name: 'linux-arm64', elfMachine: 183 },
};
const ELF_MACHINE_OFFSET = 18;
/** Folders of packages that hold nothing that is loaded. */
const UNUSED_FOLDERS = new Set([
  'node_modules',
  'prebuilds',
  'deps',
  'src',
  'test',
  'tests',
  'docs',
  'build',
]);

const manifestSchema = z.looseObject({
  name: z.string(),
  dependencies: z.record(z.string(), z.string()).default({}),
});

/**
 * Folders of modules and of all that they need, as paths in the checkout.
 * @throws PackagingError where one isn't installed
 */
export async function closureOf(modules: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  const add = async (name: string, from: string): Promise<void> => {
    const folder = folderOf(name, from);
    if (found.has(folder)) return;
    found.add(folder);
    const manifest: unknown = JSON.parse(await readFile(join(TOP, folder, 'package.json'), 'utf8'));
    for (const needed of Object.keys(manifestSchema.parse(manifest).dependencies))
      if (!FOR_COMPILING.has(needed)) await add(needed, folder);
  };
  for (const name of modules) await add(name, '');
  return [...found].sort();
}

/** Where Node finds a module that a package in this folder imports. */
function folderOf(name: string, from: string): string {
  for (let at = from; ; at = dirname(at)) {
    const folder = join(at === '.' ? '' : at, 'node_modules', name);
    if (existsSync(join(TOP, folder, 'package.json'))) return folder;
    if (at === '' || at === '.')
      throw new PackagingError(`${name} is not installed: run npm ci in the checkout first`);
  }
}

/**
 * Why these modules can't run on an architecture. What a prebuilt part is for is read from the file itself: lzma-native 8.0.6 has one for
 * x86-64 in the folder of arm64.
 * @param folders of `closureOf`
 * @returns nothing where they can
 */
export async function missingNative(
  folders: readonly string[],
  architecture: Architecture,
): Promise<string | undefined> {
  for (const folder of folders) {
    if (!existsSync(join(TOP, folder, 'prebuilds'))) continue;
    const files = await prebuiltFiles(folder, architecture);
    if (files.length === 0) return `${folder} has no prebuilt part for it`;
    for (const file of files) {
      const machine = (await readFile(join(TOP, file))).readUInt16LE(ELF_MACHINE_OFFSET);
      if (machine !== PLATFORMS[architecture].elfMachine) return `${file} is for another processor`;
    }
  }
  return undefined;
}

/** Prebuilt native parts of a module, for glibc: paths in the checkout. */
async function prebuiltFiles(folder: string, architecture: Architecture): Promise<string[]> {
  const prebuilds = join(folder, 'prebuilds', PLATFORMS[architecture].name);
  if (!existsSync(join(TOP, prebuilds))) return [];
  const names = (await readdir(join(TOP, prebuilds))).filter(name => !/musl|electron/.test(name));
  return names.map(name => join(prebuilds, name));
}

/**
 * Copies what is loaded of a module: JavaScript, JSON, and the prebuilt native part.
 * @param folder of `closureOf`
 * @param to the folder that stands for the checkout
 */
export async function copyModule(folder: string, to: string, architecture: Architecture): Promise<void> {
  await copyScripts(join(TOP, folder), join(to, folder));
  for (const file of await prebuiltFiles(folder, architecture)) {
    await mkdir(dirname(join(to, file)), { recursive: true });
    await copyFile(join(TOP, file), join(to, file));
  }
}

async function copyScripts(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory() && !UNUSED_FOLDERS.has(entry.name)) await copyScripts(source, target);
    else if (entry.isFile() && isModule(entry.name) && !(await isCommand(source)))
      await copyFile(source, target);
  }
}

const isModule = (name: string): boolean => /\.(?:c?js|mjs|json)$/.test(name) && name !== 'test.js';

/** What is started at an installation by npm. */
const isCommand = async (path: string): Promise<boolean> =>
  (await readFile(path)).subarray(0, 2).toString('latin1') === '#!';
