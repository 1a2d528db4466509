/**
 * Cutting text. A slice by UTF-16 code units can leave half of a surrogate pair, which strict JSON refuses: a document that
 * holds one can't be read by anybody, and what waits behind it isn't either. Lengths are counted in UTF-16 code units, as
 * `length` and the schemas' `max` count them. What these functions give is well-formed, whatever they get.
 */

/** The beginning of a text, at most so long. */
export function cutText(text: string, maxChars: number): string {
  const isSplit = isHighSurrogate(text, maxChars - 1) && isLowSurrogate(text, maxChars);
  return text.slice(0, isSplit ? maxChars - 1 : maxChars).toWellFormed();
}

/** The end of a text, at most so long. */
export function cutTextStart(text: string, maxChars: number): string {
  const start = Math.max(0, text.length - maxChars);
  const isSplit = isHighSurrogate(text, start - 1) && isLowSurrogate(text, start);
  return text.slice(isSplit ? start + 1 : start).toWellFormed();
}

/** The end of what a command has printed, for a sentence: `no output` where that is nothing. */
export function outputText(output: string, maxChars: number): string {
  const text = cutTextStart(output.trim(), maxChars).trim();
  return text === '' ? 'no output' : text;
}

/**
 * The last bytes that a program wrote, as text. Where earlier bytes are gone, the rest of a character that lost its
 * beginning goes, too. What isn't UTF-8 becomes U+FFFD.
 */
export function decodeTail(bytes: Uint8Array, isCut: boolean): string {
  let start = 0;
  if (isCut) while (start < MAX_CONTINUATION_BYTES && isContinuation(bytes[start])) start += 1;
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, bytes.length - start).toString('utf8');
}

/** A character of UTF-8 has at most so many bytes after its first. */
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
