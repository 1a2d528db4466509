import { type FileHandle, open } from 'node:fs/promises';
import { writeCopy, writeFileDurably } from '@sitecast/shared/durable';

/**
 * How the agent writes its own files. What a call has written survives a power cut once the call has returned. Tests cut the power
 * before and after each call.
 */
export interface DurableFiles {
  /** Replaces a file: after a power cut it is the old one or the new one. */
  replace(path: string, content: Uint8Array | string, mode?: number): Promise<void>;
  /** Replaces the copy that lies beside a file. */
  replaceCopy(path: string, content: Uint8Array | string): Promise<void>;
  /** Opens a file to append to it; makes it where there is none. */
  openToAppend(path: string): Promise<FileHandle>;
  /** Appends to an open file. A power cut may leave a part of it. @param name for tests */
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
