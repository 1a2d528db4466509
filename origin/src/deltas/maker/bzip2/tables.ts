import { codeLengths } from './huffman.ts';

/** Symbols that share a selector. */
export const GROUP_SYMBOLS = 50;
const MAX_ROUNDS = 10;

/** Several Huffman codes, and which of them each group of symbols uses. */
export interface CodingTables {
  /** Of each table: its codes' lengths by symbol. */
  readonly lengths: readonly Uint8Array[];
  readonly selectors: Uint8Array;
  /** What tables, selectors and symbols cost together, in bits. */
  readonly bits: number;
}

/** Chooses the cheapest tables: tries 2 to 6 codes, and refines each as long as that saves bits. */
export function chooseTables(symbols: Uint16Array, alphabet: number): CodingTables {
  let best: CodingTables | undefined;
  for (let count = 2; count <= 6; count++) {
    const tables = refine(symbols, alphabet, firstLengths(symbols, alphabet, count));
    if (best === undefined || tables.bits < best.bits) best = tables;
  }
  if (best === undefined) throw new Error('no table was tried');
  return best;
}

/** First lengths, as in bzip2: each table is good for its share of the symbols, divided by frequency, and bad for all others. */
function firstLengths(symbols: Uint16Array, alphabet: number, count: number): Uint8Array[] {
  const counts = new Uint32Array(alphabet);
  for (const symbol of symbols) counts[symbol] = (counts[symbol] ?? 0) + 1;
  let left = symbols.length;
  let from = 0;
  return Array.from({ length: count }, (_, table) => {
    const share = left / (count - table);
    let taken = 0;
    let to = from;
    while (to < alphabet && (taken < share || to === from)) taken += counts[to++] ?? 0;
    const lengths = new Uint8Array(alphabet).fill(15);
    lengths.fill(0, from, to);
    from = to;
    left -= taken;
    return lengths;
  });
}

function refine(symbols: Uint16Array, alphabet: number, first: Uint8Array[]): CodingTables {
  let lengths = first;
  let best: CodingTables | undefined;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const selectors = select(symbols, lengths);
    const counts = lengths.map(() => new Uint32Array(alphabet));
    for (let at = 0; at < symbols.length; at++) {
      const count = counts[selectors[Math.floor(at / GROUP_SYMBOLS)] ?? 0];
      const symbol = symbols[at] ?? 0;
      if (count !== undefined) count[symbol] = (count[symbol] ?? 0) + 1;
    }
    lengths = counts.map(codeLengths);
    const bits = tableBits(lengths) + selectorBits(selectors, lengths.length) + symbolBits(counts, lengths);
    if (best !== undefined && bits >= best.bits) break;
    best = { lengths, selectors, bits };
  }
  if (best === undefined) throw new Error('no round was made');
  return best;
}

/** The cheapest table of each group. */
function select(symbols: Uint16Array, tables: readonly Uint8Array[]): Uint8Array {
  const selectors = new Uint8Array(Math.ceil(symbols.length / GROUP_SYMBOLS));
  for (let group = 0; group < selectors.length; group++) {
    const from = group * GROUP_SYMBOLS;
    const to = Math.min(symbols.length, from + GROUP_SYMBOLS);
    let cheapest = Number.POSITIVE_INFINITY;
    for (let table = 0; table < tables.length; table++) {
      const lengths = tables[table];
      let bits = 0;
      for (let at = from; at < to; at++) bits += lengths?.[symbols[at] ?? 0] ?? 0;
      if (bits >= cheapest) continue;
      cheapest = bits;
      selectors[group] = table;
    }
  }
  return selectors;
}

function tableBits(tables: readonly Uint8Array[]): number {
  let bits = 0;
  for (const lengths of tables) {
    bits += 5 + lengths.length;
    for (let at = 1; at < lengths.length; at++)
      bits += 2 * Math.abs((lengths[at] ?? 0) - (lengths[at - 1] ?? 0));
  }
  return bits;
}

function selectorBits(selectors: Uint8Array, tableCount: number): number {
  return movedToFront(selectors, tableCount).reduce((sum, place) => sum + place + 1, 0);
}

function symbolBits(counts: readonly Uint32Array[], tables: readonly Uint8Array[]): number {
  let bits = 0;
  for (const [table, lengths] of tables.entries()) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      bits += (counts[table]?.[symbol] ?? 0) * (lengths[symbol] ?? 0);
    }
  }
  return bits;
}

/** Move-to-front: each value as its place in a list, from which it is then moved to the front. */
export function movedToFront(values: Uint8Array, valueCount: number): Uint8Array {
  const order = Array.from({ length: valueCount }, (_, value) => value);
  return values.map(value => {
    const place = order.indexOf(value);
    order.splice(place, 1);
    order.unshift(value);
    return place;
  });
}
