import { type FileHandle, open } from 'node:fs/promises';
import { writeCopy, writeFileDurably } from '@sitecast/shared/durable';

/**
 * How the agent writes its own files. When a call has resolved, its content survives a power cut. Tests cut the power before and after each
 * call.
 */
export interface DurableFiles {
  /** Replaces a file: after a power cut it is the old one or the new one. */
  replace(path: string, content: Uint8Array | string, mode?: number): Promise<void>;
  /** Replaces the copy beside a file. */
  replaceCopy(path: string, content: Uint8Array | string): Promise<void>;
  /** Opens a file to append to it; creates it if it is missing. */
  openToAppend(path: string): Promise<FileHandle>;
  /** Appends to an open file. A power cut may leave a part of the content. @param name for tests */
  append(handle: FileHandle, content: Uint8Array, name: string): Promise<void>;
}

export const durableFiles: DurableFiles = {
  replace: writeFileDurably,
  replaceCopy: writeCopy,
  openToAppend: path => open(path, 'a', 0o600),
  append: async (handle, content) => {
    await handle.appendFile(content);
    await handle.sync();
  },
};
