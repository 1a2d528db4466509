import { basename } from 'node:path/posix';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { sha256Hex } from '../../repository/committed.ts';
import { MAX_TARGET_FILE_BYTES, type TargetRef } from '../../repository/repository-store.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';
import { DAMAGED_FILES, targetFile } from './layout.ts';

/** The bytes of a target file; undefined if it is lost, damaged or unreadable. */
export async function readTarget(files: Files, file: TargetRef): Promise<Buffer | undefined> {
  const bytes = await readOrUndefined(files, targetFile(file), MAX_TARGET_FILE_BYTES);
  return bytes !== undefined && sha256Hex(bytes) === file.sha256 ? bytes : undefined;
}

/** Moves a damaged file, if it is there, out of what is served. A disk that can't be written to leaves it where it is. */
export async function setFileAside(files: Files, path: string): Promise<void> {
  try {
    await files.move(path, `${DAMAGED_FILES}/${basename(path)}`);
  } catch (error) {
    // Lost already, as a rule.
    if (!isSystemError(error) && !(error instanceof SitecastError)) throw error;
  }
}
