// One function for each kind of array: V8 inlines such functions, but not one that serves several kinds.

export function byteAt(array: Uint8Array, index: number): number {
  return array[index] ?? 0;
}

export function intAt(array: Int32Array, index: number): number {
  return array[index] ?? 0;
}

export function probAt(array: Uint16Array, index: number): number {
  return array[index] ?? 0;
}

/** How many bytes from both places on are equal. The first `from` are known to be; at most `limit` are compared. */
export function equalLength(
  bytes: Uint8Array,
  one: number,
  other: number,
  from: number,
  limit: number,
): number {
  let length = from;
  while (length < limit && bytes[one + length] === bytes[other + length]) length++;
  return length;
}
