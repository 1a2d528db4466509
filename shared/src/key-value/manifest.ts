import { recordsIn } from './log-check.ts';
import { readVarint } from './snappy.ts';

/** The parts of a manifest's record (leveldb, db/version_edit.cc): each has a tag, and then these fields. */
type Field = 'number' | 'bytes';
const FIELDS = new Map<number, readonly Field[]>([
  [1, ['bytes']], // The comparator's name.
  [2, ['number']], // The log's number.
  [3, ['number']], // The next file's number.
  [4, ['number']], // The last sequence number.
  [5, ['number', 'bytes']], // A level, and how far it's compacted.
  [6, ['number', 'number']], // A level, and a table that leaves it.
  [7, ['number', 'number', 'number', 'bytes', 'bytes']], // A level, a table that comes in, its length, its first and last key.
  [9, ['number']], // The log's number before.
]);
const LEAVES = 6;
const COMES = 7;

/**
 * The numbers of the tables that a database consists of, by its manifest. Other tables may lie beside them: a killed process had begun to
 * write them, or had not yet deleted them.
 * @returns undefined where it can't be read
 */
export function liveTables(manifest: Buffer): Set<number> | undefined {
  const records = recordsIn(manifest);
  if (!records) return undefined;
  const tables = new Set<number>();
  for (const record of records) {
    const edits = editsIn(record);
    if (!edits) return undefined;
    for (const { tag, numbers } of edits) {
      const [, table = 0] = numbers;
      // A table that moves to another level is deleted from the one and added to the other, in this order.
      if (tag === LEAVES) tables.delete(table);
      if (tag === COMES) tables.add(table);
    }
  }
  return tables;
}

interface Edit {
  tag: number;
  numbers: number[];
}

function editsIn(record: Buffer): Edit[] | undefined {
  const edits: Edit[] = [];
  for (let at = 0; at < record.length; ) {
    const tag = readVarint(record, at);
    const fields = tag && FIELDS.get(tag.value);
    if (!fields) return undefined;
    const numbers: number[] = [];
    at = tag.end;
    for (const field of fields) {
      const read = readVarint(record, at);
      if (!read) return undefined;
      if (field === 'number') numbers.push(read.value);
      at = read.end + (field === 'bytes' ? read.value : 0);
    }
    edits.push({ tag: tag.value, numbers });
  }
  return edits;
}
