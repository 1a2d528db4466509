export { openBounded, readFileBounded, readFromHandle } from './bounded.ts';
export { createFileDurably, makeDirectory, removeDurably, syncDirectory, writeFileDurably } from './files.ts';
