// C0 but for tab and line feed, DEL, C1; marks that reverse the direction of text, and line separators.
// eslint-disable-next-line no-control-regex -- they are what is looked for
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/**
 * Text for a terminal: what devices and gateways say of themselves reaches it, and an escape sequence among it could
 * rewrite the screen, the window's title or the clipboard. Each such character becomes U+FFFD.
 */
export function plainText(text: string): string {
  return text.replace(UNSAFE, '\ufffd');
}
