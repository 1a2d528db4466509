import './encoders/web-assembly.ts';

const PAGE_BYTES = 65_536;

/**
 * Zeroed memory of which the system provides only the touched pages, and gets them back when the garbage is collected. It's a WebAssembly
 * memory, since each of those is mapped on its own: an `ArrayBuffer` comes from the C library's heap, which keeps freed memory for later
 * use, and writes zeros to all of it at once. Falls back to an `ArrayBuffer` where there isn't enough address space.
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
