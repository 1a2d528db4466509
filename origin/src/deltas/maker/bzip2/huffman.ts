/** The longest code that bzip2's decoders take. Its own encoder keeps to 17 bits, too. */
const MAX_CODE_BITS = 17;

/**
 * Lengths of a Huffman code, in bits: 1 to 17.
 * @param counts how often each symbol occurs; a symbol that doesn't occur gets a code as well
 */
export function codeLengths(counts: Uint32Array): Uint8Array {
  let weights = Array.from(counts, count => Math.max(1, count));
  for (;;) {
    const lengths = huffmanLengths(weights);
    if (lengths.every(length => length <= MAX_CODE_BITS)) return lengths;
    weights = weights.map(weight => Math.ceil(weight / 2));
  }
}

function huffmanLengths(weights: readonly number[]): Uint8Array {
  const leaves = weights
    .map((weight, symbol) => ({ weight, symbol, left: -1, right: -1 }))
    .sort((one, other) => one.weight - other.weight);
  const nodes = [...leaves];
  // Two queues with rising counts: the sorted leaves, and the inner nodes behind them in `nodes`.
  let leaf = 0;
  let inner = leaves.length;
  const lightest = (): number => {
    const isLeaf =
      leaf < leaves.length &&
      (inner >= nodes.length || (nodes[leaf]?.weight ?? 0) <= (nodes[inner]?.weight ?? 0));
    return isLeaf ? leaf++ : inner++;
  };
  for (let merged = 1; merged < leaves.length; merged++) {
    const left = lightest();
    const right = lightest();
    const weight = (nodes[left]?.weight ?? 0) + (nodes[right]?.weight ?? 0);
    nodes.push({ weight, symbol: -1, left, right });
  }
  const depths = new Uint8Array(nodes.length);
  const lengths = new Uint8Array(weights.length);
  for (let at = nodes.length - 1; at >= 0; at--) {
    const node = nodes[at];
    const depth = depths[at] ?? 0;
    if (node === undefined) continue;
    if (node.symbol !== -1) lengths[node.symbol] = depth;
    else {
      depths[node.left] = depth + 1;
      depths[node.right] = depth + 1;
    }
  }
  return lengths;
}

/** The canonical code of some lengths: shorter codes first, then by symbol. */
export function canonicalCodes(lengths: Uint8Array): Uint32Array {
  const codes = new Uint32Array(lengths.length);
  let code = 0;
  for (let length = 1; length <= MAX_CODE_BITS; length++) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] === length) codes[symbol] = code++;
    }
    code *= 2;
  }
  return codes;
}
