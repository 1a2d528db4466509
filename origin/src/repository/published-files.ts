import { basename } from 'node:path/posix';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  type Metadata,
  metadataPath,
  parseMetadata,
  targetPath,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import { MAX_TARGET_FILE_BYTES } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type Committed, maxBytesOf, METADATA, sha256Hex, TARGETS } from './committed.ts';

const SET_ASIDE = 'damaged/files';

/** A target file that published metadata lists. */
export interface PublishedFile {
  name: string;
  /** Within the data directory. */
  path: string;
  sha256: string;
  lengthBytes: number;
  role: 'targets' | 'rollouts' | 'deltas';
}

/** All target files that the published metadata lists. */
export function publishedFiles(committed: Committed): PublishedFile[] {
  return (['targets', 'rollouts', 'deltas'] as const).flatMap(role =>
    Object.entries(committed[role].signed.targets).flatMap(([name, { hashes, length }]) => {
      const { sha256 } = hashes;
      if (sha256 === undefined) return [];
      return [{ name, role, sha256, lengthBytes: length, path: `${TARGETS}/${targetPath(name, sha256)}` }];
    }),
  );
}

/** The bytes of a published file; undefined where it's lost, damaged or unreadable. */
export async function readRight(files: Files, { path, sha256 }: PublishedFile): Promise<Buffer | undefined> {
  const bytes = await readOrUndefined(files, path, MAX_TARGET_FILE_BYTES);
  return bytes !== undefined && sha256Hex(bytes) === sha256 ? bytes : undefined;
}

/** A root that was in force before; undefined where it's lost or damaged, as far as its own keys tell. */
export async function readRoot(files: Files, version: number): Promise<Metadata<'root'> | undefined> {
  const bytes = await readOrUndefined(
    files,
    `${METADATA}/${metadataPath('root', version)}`,
    maxBytesOf('root'),
  );
  return bytes && parsedRoot(bytes, version);
}

/** A root as its own keys vouch for it; undefined for anything else. */
export function parsedRoot(bytes: Uint8Array, version: number): Metadata<'root'> | undefined {
  try {
    const root = parseMetadata(bytes, 'root');
    verifyThreshold(root, topLevelSigners(root.signed, 'root'), { role: 'root', step: '5.3.4' });
    return root.signed.version === version ? root : undefined;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** Moves a damaged file, if it's there, out of what is served. A disk that can't be written to leaves it where it is. */
export async function setFileAside(files: Files, path: string): Promise<void> {
  try {
    await files.move(path, `${SET_ASIDE}/${basename(path)}`);
  } catch (error) {
    // Lost already, as a rule.
    if (!isSystemError(error) && !(error instanceof SitecastError)) throw error;
  }
}
