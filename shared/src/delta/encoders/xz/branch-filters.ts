// Ported from XZ Utils 5.4.1, liblzma/simple/x86.c, arm.c and armthumb.c, by Igor Pavlov and Lasse Collin, which they put into the public domain.

/** Changes the targets of jumps in place: from relative to absolute (`isEncoder`) or back. */
type BranchFilter = (bytes: Uint8Array, isEncoder: boolean) => void;

/** The filters by their number in the .xz file format. */
export const BRANCH_FILTERS: ReadonlyMap<number, BranchFilter> = new Map([
  [4, x86],
  [7, arm],
  [8, armThumb],
]);

const isHigh = (byte: number): boolean => byte === 0 || byte === 0xff;
/** Whether a byte is filtered, by which of the bytes before it are opcodes or look like the end of an address. */
const ALLOWED = [true, true, true, false, true, false, false, false];
const BYTE_OF_MASK = [0, 1, 2, 2, 3, 3, 3, 3];

function x86(bytes: Uint8Array, isEncoder: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let mask = 0;
  let last = -5;
  for (let at = 0; at + 5 <= bytes.length; ) {
    if ((view.getUint8(at) & 0xfe) !== 0xe8) {
      at++;
      continue;
    }
    const distance = at - last;
    last = at;
    if (distance > 5) mask = 0;
    else for (let count = 0; count < distance; count++) mask = (mask & 0x77) << 1;
    const top = view.getUint8(at + 4);
    if (isHigh(top) && ALLOWED[(mask >> 1) & 7] === true && mask >> 1 < 0x10) {
      const address = convert(view.getInt32(at + 1, true), isEncoder ? at + 5 : -at - 5, mask);
      // Its highest byte repeats the bit below it.
      view.setInt32(at + 1, (address << 7) >> 7, true);
      at += 5;
      mask = 0;
    } else {
      at++;
      mask |= isHigh(top) ? 0x11 : 1;
    }
  }
}

function convert(source: number, add: number, mask: number): number {
  for (let from = source; ; ) {
    const to = (from + add) | 0;
    if (mask === 0) return to;
    const shift = 8 * (BYTE_OF_MASK[mask >> 1] ?? 0);
    if (!isHigh((to >>> (24 - shift)) & 0xff)) return to;
    from = to ^ (2 ** (32 - shift) - 1);
  }
}

function arm(bytes: Uint8Array, isEncoder: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    const word = view.getUint32(at, true);
    if (word >>> 24 !== 0xeb) continue;
    const words = (at + 8) / 4;
    const target = (word + (isEncoder ? words : -words)) & 0xffffff;
    view.setUint32(at, 0xeb000000 + target, true);
  }
}

function armThumb(bytes: Uint8Array, isEncoder: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + 4 <= bytes.length; at += 2) {
    const high = view.getUint16(at, true);
    const low = view.getUint16(at + 2, true);
    if (high >> 11 !== 0x1e || low >> 11 !== 0x1f) continue;
    const units = (at + 4) / 2;
    const target = (((high & 0x7ff) << 11) | (low & 0x7ff)) + (isEncoder ? units : -units);
    view.setUint16(at, 0xf000 | ((target >> 11) & 0x7ff), true);
    view.setUint16(at + 2, 0xf800 | (target & 0x7ff), true);
    at += 2;
  }
}
