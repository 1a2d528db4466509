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

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB'];

/** `512 B`, `1.2 KiB`, `47 MiB`: the one form in which people read a number of bytes. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  let value = bytes;
  let unit = '';
  for (const next of UNITS) {
    value /= 1024;
    unit = next;
    if (value < 1024) break;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value).toString()} ${unit}`;
}

/**
 * `planned 1.2 MiB, spent 1.3 MiB`: what gateways were to send for an update, and have sent.
 * @param isPlanAtMost the plan doesn't know how well chunks are compressed
 */
export function transferText({
  plannedBytes,
  spentBytes,
  isPlanAtMost = false,
}: {
  plannedBytes?: number | undefined;
  spentBytes: number;
  isPlanAtMost?: boolean | undefined;
}): string {
  const spent = `spent ${formatBytes(spentBytes)}`;
  if (plannedBytes === undefined) return spent;
  return `planned ${isPlanAtMost ? 'at most ' : ''}${formatBytes(plannedBytes)}, ${spent}`;
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
