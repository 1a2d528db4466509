import './encoders/web-assembly.ts';

const PAGE_BYTES = 65_536;

/**
 * Zeroed memory that the system gives only as far as it's used, and gets back as soon as nothing refers to it any more and the garbage is
 * collected. It's a WebAssembly memory of its own, since those are mapped: an `ArrayBuffer` comes from the C library's heap, which keeps
 * what was freed for the next one, and clears it at once. Falls back to one where so much address space isn't to be had.
 */
export function ownPages(lengthBytes: number): Uint8Array {
  const memory = mapped(lengthBytes, false);
  return memory === undefined ? new Uint8Array(lengthBytes) : new Uint8Array(memory, 0, lengthBytes);
}

/** The same for memory that several threads see. */
export function sharedPages(lengthBytes: number): SharedArrayBuffer {
  const memory = mapped(lengthBytes, true);
  return memory instanceof SharedArrayBuffer ? memory : new SharedArrayBuffer(lengthBytes);
}

function mapped(lengthBytes: number, isShared: boolean): ArrayBuffer | SharedArrayBuffer | undefined {
  const pages = Math.max(1, Math.ceil(lengthBytes / PAGE_BYTES));
  try {
    return new globalThis.WebAssembly.Memory({ initial: pages, maximum: pages, shared: isShared }).buffer;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
