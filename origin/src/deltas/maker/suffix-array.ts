// Suffix arrays by induced sorting: G. Nong, S. Zhang, W. H. Chan, "Two Efficient Algorithms for Linear Time Suffix Array Construction",
// IEEE Transactions on Computers 60 (2011), SA-IS. It takes linear time for any text, unlike qsufsort and its kind. Memory: 4 bytes per
// suffix for the result, and about 3 more while it is made.

/** A text of numbers from 0 to below its alphabet's size. Its end counts as smaller than all of them. */
type Text = Uint8Array | Int32Array;

const BYTE_VALUES = 256;

/** @returns where the suffixes of `text` begin, in the order of the suffixes */
export function suffixArray(text: Uint8Array): Int32Array {
  const suffixes = new Int32Array(text.length);
  sortSuffixes(text, suffixes, BYTE_VALUES);
  return suffixes;
}

function sortSuffixes(text: Text, suffixes: Int32Array, alphabet: number): void {
  const { length } = text;
  if (length < 2) return;
  const isSmall = smallerThanNext(text);
  const counts = countSymbols(text, alphabet);
  const buckets = new Int32Array(alphabet);

  suffixes.fill(-1);
  bucketEnds(counts, buckets);
  for (let at = length - 1; at > 0; at--) {
    if (isLeftmost(isSmall, at)) putLast(suffixes, buckets, text[at] ?? 0, at);
  }
  induce(text, suffixes, isSmall, counts, buckets);

  const leftmost = sortLeftmost(text, suffixes, isSmall);
  suffixes.fill(-1, leftmost);
  bucketEnds(counts, buckets);
  for (let at = leftmost - 1; at >= 0; at--) {
    const suffix = suffixes[at] ?? 0;
    suffixes[at] = -1;
    putLast(suffixes, buckets, text[suffix] ?? 0, suffix);
  }
  induce(text, suffixes, isSmall, counts, buckets);
}

/** Whether the suffix is a leftmost one of type S (LMS): smaller than the next suffix, while the previous one isn't smaller than it. */
function isLeftmost(isSmall: Uint8Array, at: number): boolean {
  return at > 0 && isSmall[at] === 1 && isSmall[at - 1] === 0;
}

/** Sorts the LMS suffixes to the front of the array. Their LMS substrings are already sorted. @returns how many there are */
function sortLeftmost(text: Text, suffixes: Int32Array, isSmall: Uint8Array): number {
  const leftmost = gatherLeftmost(suffixes, isSmall);
  const names = nameLeftmost(text, suffixes, isSmall, leftmost);
  const order = suffixes.subarray(0, leftmost);
  const reduced = suffixes.subarray(text.length - leftmost);
  if (names < leftmost) sortSuffixes(reduced, order, names);
  else for (let at = 0; at < leftmost; at++) order[reduced[at] ?? 0] = at;
  // The reduced text isn't needed any more. It is overwritten with the places of the LMS suffixes.
  for (let at = 1, found = 0; at < text.length; at++) {
    if (isLeftmost(isSmall, at)) reduced[found++] = at;
  }
  for (let at = 0; at < leftmost; at++) order[at] = reduced[order[at] ?? 0] ?? 0;
  return leftmost;
}

/** The paper's types: 1 where the suffix is smaller than the next one (S), else 0 (L). */
function smallerThanNext(text: Text): Uint8Array {
  const types = new Uint8Array(text.length);
  for (let at = text.length - 2; at >= 0; at--) {
    const here = text[at] ?? 0;
    const next = text[at + 1] ?? 0;
    types[at] = here < next ? 1 : here > next ? 0 : (types[at + 1] ?? 0);
  }
  return types;
}

function countSymbols(text: Text, alphabet: number): Int32Array {
  const counts = new Int32Array(alphabet);
  for (let at = 0; at < text.length; at++) {
    const symbol = text[at] ?? 0;
    counts[symbol] = (counts[symbol] ?? 0) + 1;
  }
  return counts;
}

function bucketEnds(counts: Int32Array, buckets: Int32Array): void {
  let sum = 0;
  for (let symbol = 0; symbol < counts.length; symbol++) {
    sum += counts[symbol] ?? 0;
    buckets[symbol] = sum;
  }
}

function bucketStarts(counts: Int32Array, buckets: Int32Array): void {
  let sum = 0;
  for (let symbol = 0; symbol < counts.length; symbol++) {
    buckets[symbol] = sum;
    sum += counts[symbol] ?? 0;
  }
}

function putLast(suffixes: Int32Array, buckets: Int32Array, symbol: number, suffix: number): void {
  const place = (buckets[symbol] ?? 0) - 1;
  buckets[symbol] = place;
  suffixes[place] = suffix;
}

/** Sorts all suffixes from the LMS ones, which are in place: first those of type L, then those of type S. */
function induce(
  text: Text,
  suffixes: Int32Array,
  isSmall: Uint8Array,
  counts: Int32Array,
  buckets: Int32Array,
): void {
  const { length } = text;
  bucketStarts(counts, buckets);
  // The last suffix is induced by the end of the text, which has no entry in the array.
  const last = text[length - 1] ?? 0;
  const first = buckets[last] ?? 0;
  suffixes[first] = length - 1;
  buckets[last] = first + 1;
  for (let at = 0; at < length; at++) {
    const before = (suffixes[at] ?? 0) - 1;
    if (before < 0 || isSmall[before] === 1) continue;
    const symbol = text[before] ?? 0;
    const place = buckets[symbol] ?? 0;
    suffixes[place] = before;
    buckets[symbol] = place + 1;
  }
  induceSmall(text, suffixes, isSmall, counts, buckets);
}

function induceSmall(
  text: Text,
  suffixes: Int32Array,
  isSmall: Uint8Array,
  counts: Int32Array,
  buckets: Int32Array,
): void {
  bucketEnds(counts, buckets);
  for (let at = text.length - 1; at >= 0; at--) {
    const before = (suffixes[at] ?? 0) - 1;
    if (before >= 0 && isSmall[before] === 1) putLast(suffixes, buckets, text[before] ?? 0, before);
  }
}

/** Moves the LMS suffixes to the front, in the order of their LMS substrings. @returns how many there are */
function gatherLeftmost(suffixes: Int32Array, isSmall: Uint8Array): number {
  let count = 0;
  for (let at = 0; at < suffixes.length; at++) {
    const suffix = suffixes[at] ?? 0;
    if (isLeftmost(isSmall, suffix)) suffixes[count++] = suffix;
  }
  return count;
}

/** Writes the reduced text (the names of the LMS substrings) to the end of the array. @returns how many different names there are */
function nameLeftmost(text: Text, suffixes: Int32Array, isSmall: Uint8Array, leftmost: number): number {
  suffixes.fill(-1, leftmost);
  let names = 0;
  let previous = -1;
  for (let at = 0; at < leftmost; at++) {
    const suffix = suffixes[at] ?? 0;
    if (previous === -1 || !isSameSubstring(text, isSmall, previous, suffix)) names++;
    previous = suffix;
    suffixes[leftmost + (suffix >> 1)] = names - 1;
  }
  let end = suffixes.length;
  for (let at = suffixes.length - 1; at >= leftmost; at--) {
    const name = suffixes[at] ?? 0;
    if (name >= 0) suffixes[--end] = name;
  }
  return names;
}

/** Whether two LMS substrings are equal: from an LMS suffix's first symbol to the next LMS suffix's first, inclusive. */
function isSameSubstring(text: Text, isSmall: Uint8Array, one: number, other: number): boolean {
  const { length } = text;
  for (let at = 0; ; at++) {
    const left = one + at;
    const right = other + at;
    if (left >= length || right >= length) return false;
    if (text[left] !== text[right] || isSmall[left] !== isSmall[right]) return false;
    if (at > 0 && isLeftmost(isSmall, left) && isLeftmost(isSmall, right)) return true;
  }
}
