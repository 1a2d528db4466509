import { SitecastError } from '../errors.ts';

/** A parsed JSON value. Numbers are whole and within ±(2^53 − 1). */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [name: string]: JsonValue };

/** More nesting than any signed file needs. Canonicalisation and validation recurse once per level. */
export const MAX_JSON_DEPTH = 64;

/** The bound for callers that have no smaller one. */
const MAX_JSON_BYTES = 64 * 1024 * 1024;

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Parses bytes as JSON, and refuses every difference that canonical JSON would hide. Two files with such a difference would carry the same
 * signature but mean different things to different readers.
 *
 * Refused are: invalid UTF-8, a byte order mark, duplicate names, numbers that aren't whole, aren't plainly written (`1.0`, `1e3`, `-0`)
 * or lie beyond 2^53 − 1, lone surrogates, the name `__proto__`, nesting deeper than `MAX_JSON_DEPTH`, and anything after the value.
 * @param loneSurrogates `replace` turns each one in a value, but not in a name, into U+FFFD. It is for documents that are signed as
 * bytes, not as canonical JSON, where the replacement affects no signature
 * @throws SITECAST_JSON_REFUSED (badInput), SITECAST_JSON_TOO_LARGE (tooLarge)
 */
export function parseStrictJson(
  bytes: Uint8Array,
  maxBytes = MAX_JSON_BYTES,
  loneSurrogates: 'refuse' | 'replace' = 'refuse',
): JsonValue {
  if (bytes.length > maxBytes) {
    throw new SitecastError('tooLarge', 'SITECAST_JSON_TOO_LARGE', `more than ${maxBytes} bytes of JSON`, {
      data: { maxBytes, lengthBytes: bytes.length },
    });
  }
  let text: string;
  let value: JsonValue;
  try {
    text = UTF8.decode(bytes);
    value = loneSurrogates === 'replace' ? JSON.parse(text, wellFormed) : JSON.parse(text);
  } catch (cause) {
    throw refused('it is not valid UTF-8 JSON', cause);
  }
  refuseHiddenDifferences(text, loneSurrogates);
  return value;
}

function wellFormed(_name: string, value: unknown): unknown {
  return typeof value === 'string' ? value.toWellFormed() : value;
}

// JSON.parse has accepted the text, so these tokens suffice: strings, numbers, structure.
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*|[{}[\]:]/g;
const PLAIN_INTEGER = /^(?:0|-?[1-9]\d*)$/;

/** @param text valid JSON */
function refuseHiddenDifferences(text: string, loneSurrogates: 'refuse' | 'replace'): void {
  // The names seen in each open object; undefined for an array.
  const open: (Set<string> | undefined)[] = [];
  let lastString = '';
  for (const [token] of text.matchAll(TOKEN)) {
    switch (token[0]) {
      case '{':
      case '[':
        open.push(token === '{' ? new Set() : undefined);
        if (open.length > MAX_JSON_DEPTH) throw refused(`it is nested deeper than ${MAX_JSON_DEPTH} levels`);
        break;
      case '}':
      case ']':
        open.pop();
        break;
      case '"':
        lastString = String(JSON.parse(token));
        if (loneSurrogates === 'refuse') refuseLoneSurrogates(lastString);
        break;
      case ':':
        refuseLoneSurrogates(lastString);
        addName(open.at(-1), lastString);
        break;
      default:
        checkNumber(token);
    }
  }
}

function refuseLoneSurrogates(text: string): void {
  if (!text.isWellFormed()) throw refused('a string holds half of a surrogate pair');
}

function addName(names: Set<string> | undefined, name: string): void {
  if (name === '__proto__') throw refused('an object has a member called __proto__');
  if (names?.has(name)) throw refused(`an object has two members called ${JSON.stringify(name)}`);
  names?.add(name);
}

function checkNumber(token: string): void {
  if (!PLAIN_INTEGER.test(token) || !Number.isSafeInteger(Number(token))) {
    throw refused(`the number ${token.slice(0, 40)} is not a plain whole number within 2^53 - 1`);
  }
}

function refused(why: string, cause?: unknown): SitecastError {
  return new SitecastError('badInput', 'SITECAST_JSON_REFUSED', `The JSON is refused: ${why}`, { cause });
}
