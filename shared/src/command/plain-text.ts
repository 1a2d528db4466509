// Control characters but for tab and line feed; marks that reverse the direction of text, and line separators.
const UNSAFE = /(?![\t\n])\p{Cc}|[\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/**
 * Text for a terminal: what devices and gateways say of themselves reaches it, and an escape sequence among it could
 * rewrite the screen, the window's title or the clipboard. Each such character becomes U+FFFD.
 */
export function plainText(text: string): string {
  return text.replace(UNSAFE, '\ufffd');
}
