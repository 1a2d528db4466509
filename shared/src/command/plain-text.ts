/**
 * What devices, gateways and other operators say of themselves reaches a terminal. An escape sequence among it could
 * rewrite the screen or the clipboard, a line break could forge a line, what is invisible could make two names look alike
 * or carry a hidden message: control characters, line separators, half surrogate pairs, and all that Unicode lets a
 * renderer ignore (zero-width characters, marks that turn the direction of text, tags, variation selectors, blank letters).
 */
const UNSAFE = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;
/** A log's JSON ends with a line feed of its own. */
const UNSAFE_IN_JSON = /(?![\t\n])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;
const LINE_BREAKS = /\r\n|[\n\v\f\r\u0085\u2028\u2029]/gu;
const SHOWN_BREAK = ' ↵ ';
/** It chooses how an emoji is drawn, and widens it on some terminals: the emoji alone says as much. */
const EMOJI_STYLE = /(?<=\p{Extended_Pictographic})[\ufe0e\ufe0f]/gu;
/** More than any language puts on a letter: they run into the lines above and below. */
const MARK_FLOOD = /(\p{M}{4})\p{M}+/gu;
/** It would sit on what stands before the field. */
const LEADING_MARK = /^\p{M}/u;
const PRINTABLE_ASCII = /^[ -~]*$/;
const REPLACEMENT = '\ufffd';

/** One line, or one field of a line, for a terminal. What is unsafe becomes U+FFFD, a line break `↵`, a tab a blank. */
export function plainLine(text: string): string {
  if (PRINTABLE_ASCII.test(text)) return text;
  const oneLine = text.replace(LINE_BREAKS, SHOWN_BREAK).replaceAll('\t', ' ').replace(EMOJI_STYLE, '');
  return oneLine
    .replace(UNSAFE, REPLACEMENT)
    .replace(MARK_FLOOD, `$1${REPLACEMENT}`)
    .replace(LEADING_MARK, REPLACEMENT);
}

/** JSON that says the same, with each unsafe character escaped: whoever reads it loses nothing, and a terminal is safe. */
export function plainJson(json: string): string {
  return json.replace(UNSAFE_IN_JSON, character => character.replace(/[^]/g, escapeUnit));
}

const escapeUnit = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
