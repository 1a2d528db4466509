import type { Files } from './files.ts';

const PRIVATE = 0o700;
const PUBLIC = 0o755;
const PARTIAL = /\.partial$/;

/** The directories of the data directory; of those, `repository` may be handed to any web server. */
const DIRECTORIES: readonly [string, number][] = [
  ['keys', PRIVATE],
  ['staging', PRIVATE],
  ['staging/chunks', PRIVATE],
  ['staging/files', PRIVATE],
  ['damaged', PRIVATE],
  ['damaged/chunks', PRIVATE],
  ['damaged/files', PRIVATE],
  ['spare', PRIVATE],
  ['repository', PUBLIC],
  ['repository/metadata', PUBLIC],
  ['repository/targets', PUBLIC],
  ['repository/targets/releases', PUBLIC],
  ['repository/targets/products', PUBLIC],
  ['repository/targets/rollouts', PUBLIC],
  ['repository/chunks', PUBLIC],
];

/** Makes the directories that aren't there, durably, and deletes what a killed process was in the midst of writing. */
export async function prepareDataDirectory(files: Files): Promise<void> {
  for (const [path, mode] of DIRECTORIES) await files.makeDirectory(path, mode);
  for (const path of ['.', ...DIRECTORIES.map(([path]) => path)]) {
    for await (const { name } of files.list(path)) {
      if (PARTIAL.test(name)) await files.remove(`${path}/${name}`);
    }
    await files.syncDirectory(path);
  }
}
