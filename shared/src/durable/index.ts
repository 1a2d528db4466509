export { openBounded, readFileBounded } from './bounded.ts';
export { createFileDurably, makeDirectory, removeDurably, syncDirectory, writeFileDurably } from './files.ts';
