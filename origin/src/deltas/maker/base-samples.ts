const MAX_SAMPLES = 2 ** 20;
const SLOTS = 2 * MAX_SAMPLES;
/** Content that the base repeats more often than this isn't used: it doesn't tell a place. */
const MAX_REPEATS = 4;
/** Precision of remembered places, in bytes. */
const PLACE_BYTES = 4096;
/** A sample is the hash of this many bytes before its place. */
const SAMPLE_BYTES = 32;
/** One sample in 2^7 bytes of a base, or fewer where there would be more than MAX_SAMPLES. */
const MIN_RATE_BITS = 7;
const TOO_COMMON = -1;

const gear = Int32Array.from({ length: 256 }, (_, byte) => {
  // SplitMix's finalizer. The numbers need only look random.
  let mixed = Math.imul(byte + 1, 0x9e3779b9);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
});

/**
 * Remembers places of a base by content-defined samples: places where the topmost bits of a gear hash are zero, so that the same bytes give
 * the same samples wherever they are. Takes 24 MiB of memory, however large the base is.
 */
export class BaseSamples {
  readonly #rateBits: number;
  /** An open hash table: a sample's hash (0: none), and its place in units of PLACE_BYTES. */
  readonly #hashes = new Int32Array(SLOTS);
  readonly #places = new Int32Array(SLOTS);
  #count = 0;

  /** @param baseBytes length of the base */
  constructor(baseBytes: number) {
    this.#rateBits = Math.max(MIN_RATE_BITS, Math.ceil(Math.log2(Math.max(1, baseBytes) / MAX_SAMPLES)));
  }

  /** Takes samples of the base's bytes from `offset` on. */
  add(bytes: Uint8Array, offset: number): void {
    for (const { hash, end } of samplesOf(bytes, this.#rateBits)) {
      if (this.#count >= SLOTS / 2 + SLOTS / 4) return;
      this.#insert(hash, Math.floor((offset + end) / PLACE_BYTES));
    }
  }

  /** @returns rising offsets in the base at which content of these bytes was seen */
  find(bytes: Uint8Array): number[] {
    const offsets: number[] = [];
    for (const { hash } of samplesOf(bytes, this.#rateBits)) {
      for (let slot = slotOf(hash); this.#hashes[slot] !== 0; slot = (slot + 1) % SLOTS) {
        if (this.#hashes[slot] !== hash) continue;
        const place = this.#places[slot] ?? 0;
        if (place === TOO_COMMON) break;
        offsets.push(place * PLACE_BYTES);
      }
    }
    return offsets.sort((one, other) => one - other);
  }

  #insert(hash: number, place: number): void {
    let first = -1;
    let repeats = 0;
    let slot = slotOf(hash);
    for (; this.#hashes[slot] !== 0; slot = (slot + 1) % SLOTS) {
      if (this.#hashes[slot] !== hash) continue;
      if (this.#places[slot] === TOO_COMMON || this.#places[slot] === place) return;
      if (first === -1) first = slot;
      repeats++;
    }
    if (repeats === MAX_REPEATS) this.#places[first] = TOO_COMMON;
    else {
      this.#hashes[slot] = hash;
      this.#places[slot] = place;
      this.#count++;
    }
  }
}

function slotOf(hash: number): number {
  return (hash >>> 0) % SLOTS;
}

/** The samples of some bytes: a hash that is not zero, and where the hashed bytes end. */
function samplesOf(bytes: Uint8Array, rateBits: number): { hash: number; end: number }[] {
  const samples: { hash: number; end: number }[] = [];
  const shift = 32 - rateBits;
  let rolling = 0;
  let previous = 0;
  for (let at = 0; at < bytes.length; at++) {
    rolling = ((rolling << 1) + (gear[bytes[at] ?? 0] ?? 0)) | 0;
    if (rolling >>> shift !== 0 || at + 1 < SAMPLE_BYTES) continue;
    const hash = hashOf(bytes, at + 1 - SAMPLE_BYTES);
    // A run of equal bytes would be sampled at each of them.
    if (hash !== previous) samples.push({ hash, end: at + 1 });
    previous = hash;
  }
  return samples;
}

/** FNV-1a of SAMPLE_BYTES bytes. The gear hash itself can't be used: its topmost bits are the same in all samples. */
function hashOf(bytes: Uint8Array, from: number): number {
  let hash = 0x811c9dc5;
  for (let at = from; at < from + SAMPLE_BYTES; at++) hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x01000193);
  return hash === 0 ? 1 : hash;
}
