/**
 * Cutting text. A slice by UTF-16 code units can leave half of a surrogate pair, which strict JSON refuses. A document with such a half
 * can't be read, and blocks whatever is queued behind it. Lengths are counted in UTF-16 code units, as `length` and the schemas' `max`
 * count them. These functions return well-formed text for any input.
 */

/** The beginning of a text, at most `maxChars` long. */
export function cutText(text: string, maxChars: number): string {
  const isSplit = isHighSurrogate(text, maxChars - 1) && isLowSurrogate(text, maxChars);
  return text.slice(0, isSplit ? maxChars - 1 : maxChars).toWellFormed();
}

/** The end of a text, at most `maxChars` long. */
export function cutTextStart(text: string, maxChars: number): string {
  const start = Math.max(0, text.length - maxChars);
  const isSplit = isHighSurrogate(text, start - 1) && isLowSurrogate(text, start);
  return text.slice(isSplit ? start + 1 : start).toWellFormed();
}

/** `1 device`, `1,200 devices`: a count with its noun, whose plural ends with an s. */
export function plural(count: number, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

/** The end of a command's output, for use in a sentence; `no output` if there is none. */
export function outputText(output: string, maxChars: number): string {
  const text = cutTextStart(output.trim(), maxChars).trim();
  return text === '' ? 'no output' : text;
}

/**
 * The last bytes of a program's output, as text. Where earlier bytes were cut off, the rest of a character that lost its beginning is
 * dropped. Bytes that aren't UTF-8 become U+FFFD.
 */
export function decodeTail(bytes: Uint8Array, isCut: boolean): string {
  let start = 0;
  if (isCut) while (start < MAX_CONTINUATION_BYTES && isContinuation(bytes[start])) start += 1;
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, bytes.length - start).toString('utf8');
}

/** The most bytes that a UTF-8 character has after its first. */
const MAX_CONTINUATION_BYTES = 3;

function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0b1100_0000) === 0b1000_0000;
}

function isHighSurrogate(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800;
}

function isLowSurrogate(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00;
}
