export { openBounded, readFileBounded } from './bounded.ts';
export { makeDirectory, removeDurably, syncDirectory, writeFileDurably } from './files.ts';
