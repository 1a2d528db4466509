import { type ChunkId, chunkIdToHex, chunkPath } from '@sitecast/shared/content';
import { metadataPath, targetPath } from '@sitecast/shared/trust';
import type { FileRef, TargetRef } from '../../repository/repository-store.ts';
import type { Role } from '../../repository/roles.ts';
import type { Files } from './files.ts';

const PRIVATE = 0o700;
const PUBLIC = 0o755;
const PARTIAL = /\.partial$/;

export const METADATA = 'repository/metadata';
export const TARGETS = 'repository/targets';
export const TIMESTAMP = `${METADATA}/timestamp.json`;
/** The published chunks, laid out as casync does. */
export const PUBLISHED_CHUNKS = 'repository/chunks';
/** When chunks were last published, as text. It lies among them, so whoever restores other parts of a backup leaves it. */
export const LAST_PUBLISHED = `${PUBLISHED_CHUNKS}/last-published`;
/** Chunks that nothing refers to yet: flat, because a chunk is looked up there by name alone. */
export const STAGED_CHUNKS = 'staging/chunks';
export const STAGED_FILES = 'staging/files';
/** Published chunks and files whose bytes turned out wrong. */
export const DAMAGED_CHUNKS = 'damaged/chunks';
export const DAMAGED_FILES = 'damaged/files';
export const SPARES = 'spare';
/** The origin's work on deltas. */
export const DELTAS = 'deltas';
export const KEYS = 'keys';
/** The first admin's API token. */
export const ADMIN_TOKEN = 'admin.token';

/** The directories of the data directory. Any web server may be given `repository`. */
const DIRECTORIES: readonly [string, number][] = [
  [KEYS, PRIVATE],
  ['staging', PRIVATE],
  [STAGED_CHUNKS, PRIVATE],
  [STAGED_FILES, PRIVATE],
  ['damaged', PRIVATE],
  [DAMAGED_CHUNKS, PRIVATE],
  [DAMAGED_FILES, PRIVATE],
  [SPARES, PRIVATE],
  [DELTAS, PRIVATE],
  ['repository', PUBLIC],
  [METADATA, PUBLIC],
  [TARGETS, PUBLIC],
  [`${TARGETS}/releases`, PUBLIC],
  [`${TARGETS}/products`, PUBLIC],
  [`${TARGETS}/rollouts`, PUBLIC],
  [`${TARGETS}/deltas`, PUBLIC],
  [PUBLISHED_CHUNKS, PUBLIC],
];

/** Makes the directories that are missing, durably, and deletes files that a killed process had begun to write. */
export async function prepareDataDirectory(files: Files): Promise<void> {
  for (const [path, mode] of DIRECTORIES) await files.makeDirectory(path, mode);
  for (const path of ['.', ...DIRECTORIES.map(([path]) => path)]) {
    for await (const { name } of files.list(path)) {
      if (PARTIAL.test(name)) await files.remove(`${path}/${name}`);
    }
    await files.syncDirectory(path);
  }
}

/** The file of a role's version. */
export function metadataFile(role: Role, version: number): string {
  return role === 'timestamp' ? TIMESTAMP : `${METADATA}/${metadataPath(role, version)}`;
}

export function targetFile({ name, sha256 }: TargetRef): string {
  return `${TARGETS}/${targetPath(name, sha256)}`;
}

export function fileOf(ref: FileRef): string {
  switch (ref.kind) {
    case 'metadata':
      return metadataFile(ref.role, ref.version);
    case 'target':
      return targetFile(ref);
    default:
      return publishedPath(ref.id);
  }
}

export function publishedPath(id: ChunkId): string {
  return `${PUBLISHED_CHUNKS}/${chunkPath(id)}`;
}

/** The directory that a published chunk lies in. */
export function publishedFolder(id: ChunkId): string {
  return `${PUBLISHED_CHUNKS}/${chunkIdToHex(id).slice(0, 4)}`;
}

export function stagedPath(hex: string): string {
  return `${STAGED_CHUNKS}/${hex}.cacnk`;
}

/** Where a damaged chunk is set aside. */
export function damagedPath(hex: string): string {
  return `${DAMAGED_CHUNKS}/${hex}.cacnk`;
}

const CHUNK_NAME = /^([0-9a-f]{64})\.cacnk$/;

/** The chunk that a file's name stands for. */
export function chunkHexOf(name: string): string | undefined {
  return CHUNK_NAME.exec(name)?.[1];
}
