export type { Change, Files } from './changes.ts';
export { choicesFor, everything, onlySynced } from './choices.ts';
export { cutAll, type CutOptions, type CutResult, marksBefore } from './cut-all.ts';
export { type CutDisk, DiskHistory, digestOf, putDisk } from './disk-history.ts';
export { mark } from './mark.ts';
export { filesIn, putFiles, recordWrites, scratchDirectory, whyNoRecording } from './recorded-writes.ts';
