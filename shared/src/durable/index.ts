export { openBounded, readFileBounded, readFromHandle, readSecretBounded } from './bounded.ts';
export { readCopy, setAside, setCopyAside, writeCopy } from './copies.ts';
export { diskFull, FullDiskError, withRoom } from './full-disk.ts';
export {
  createFileDurably,
  makeDirectory,
  removeDurably,
  removePartials,
  syncDirectory,
  writeFileDurably,
} from './files.ts';
