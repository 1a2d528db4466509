/**
 * Text that devices, gateways and other operators send reaches a terminal. An escape sequence in it could rewrite the screen or the
 * clipboard. A line break could forge a line. An invisible character could make two names look alike, or carry a hidden message.
 * Unsafe are control characters, line separators, lone surrogates, and all that Unicode allows a renderer to ignore (zero-width
 * characters, marks that change the direction of text, tags, variation selectors, blank letters).
 */
const UNSAFE = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;
/** A log's JSON may hold line feeds and tabs between its tokens. */
const UNSAFE_IN_JSON = /(?![\t\n])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;
const LINE_BREAKS = /\r\n|[\n\v\f\r\u0085\u2028\u2029]/gu;
const SHOWN_BREAK = ' ↵ ';
/** A variation selector chooses how an emoji is drawn, and widens it on some terminals. The emoji is clear without it. */
const EMOJI_STYLE = /(?<=\p{Extended_Pictographic})[\ufe0e\ufe0f]/gu;
/** More combining marks than any language puts on one letter. They would be drawn over the lines above and below. */
const MARK_FLOOD = /(\p{M}{4})\p{M}+/gu;
/** A leading combining mark would be drawn over the text before the field. */
const LEADING_MARK = /^\p{M}/u;
const PRINTABLE_ASCII = /^[ -~]*$/;
const REPLACEMENT = '\ufffd';

/**
 * Makes text safe as one line, or one field of a line, for a terminal. An unsafe character becomes U+FFFD, a line break `↵`, a tab a
 * space.
 */
export function plainLine(text: string): string {
  if (PRINTABLE_ASCII.test(text)) return text;
  const oneLine = text.replace(LINE_BREAKS, SHOWN_BREAK).replaceAll('\t', ' ').replace(EMOJI_STYLE, '');
  return oneLine
    .replace(UNSAFE, REPLACEMENT)
    .replace(MARK_FLOOD, `$1${REPLACEMENT}`)
    .replace(LEADING_MARK, REPLACEMENT);
}

/** Escapes each unsafe character in JSON. A parser reads the same value, and a terminal is safe. */
export function plainJson(json: string): string {
  return json.replace(UNSAFE_IN_JSON, character => character.replace(/[^]/g, escapeUnit));
}

const escapeUnit = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
