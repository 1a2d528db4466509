import { type ChunkId, chunkIdToHex, chunkPath } from '@sitecast/shared/content';

/** The folder of the chunks that nothing refers to yet: flat, for a chunk is looked up there by name alone. */
export const STAGED_CHUNKS = 'staging/chunks';
/** The folder of the published chunks, laid out as casync does. */
export const PUBLISHED_CHUNKS = 'repository/chunks';

/** The folder of published chunks whose bytes turned out wrong. */
export const DAMAGED_CHUNKS = 'damaged/chunks';

const STAGED_NAME = /^([0-9a-f]{64})\.cacnk$/;

export function stagedPath(hex: string): string {
  return `${STAGED_CHUNKS}/${hex}.cacnk`;
}

/** Where a damaged chunk is set aside. */
export function damagedPath(hex: string): string {
  return `${DAMAGED_CHUNKS}/${hex}.cacnk`;
}

/** The chunk that a staged file's name stands for. */
export function stagedHex(name: string): string | undefined {
  return STAGED_NAME.exec(name)?.[1];
}

export function publishedPath(id: ChunkId): string {
  return `${PUBLISHED_CHUNKS}/${chunkPath(id)}`;
}

/** The directory that a published chunk lies in. */
export function publishedFolder(id: ChunkId): string {
  return `${PUBLISHED_CHUNKS}/${chunkIdToHex(id).slice(0, 4)}`;
}
