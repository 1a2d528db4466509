export { openBounded, readFileBounded, readFromHandle, readSecretBounded } from './bounded.ts';
export { createFileDurably, makeDirectory, removeDurably, syncDirectory, writeFileDurably } from './files.ts';
