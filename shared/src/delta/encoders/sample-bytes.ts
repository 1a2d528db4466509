/**
 * Bytes that resemble a program's: repeated words, runs, numbers, and some that no encoder can shorten. The same seed gives the same
 * bytes.
 */
export function sampleBytes(lengthBytes: number, seed: number): Uint8Array {
  const out = new Uint8Array(lengthBytes);
  let state = seed >>> 0;
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let at = 0; at < lengthBytes; ) {
    const length = Math.min(1 + next(60), lengthBytes - at);
    const kind = next(8);
    if (kind < 5 && at > 0) {
      const from = next(at);
      for (let index = 0; index < length; index++) out[at + index] = out[from + (index % (at - from))] ?? 0;
    } else if (kind === 5) {
      out.fill(next(4), at, at + length);
    } else {
      for (let index = 0; index < length; index++) out[at + index] = next(kind === 6 ? 16 : 256);
    }
    at += length;
  }
  return out;
}
