import { cutText } from '@sitecast/shared/text';

/** The form of Sitecast's own codes. */
const CODE = /^[A-Z][A-Z0-9_]{2,63}$/;
const MAX_TEXT_CHARS = 300;

/** A text in an unsigned answer, shortened. */
export function textOf(body: unknown, name: string): string | undefined {
  const text = fieldOf(body, name);
  return typeof text === 'string' ? cutText(text, MAX_TEXT_CHARS) : undefined;
}

/** The problem that an answer names (RFC 9457), shortened; undefined where it names none. */
export function problemIn(body: unknown): string | undefined {
  const code = textOf(body, 'code');
  if (code === undefined || !CODE.test(code)) return undefined;
  const detail = textOf(body, 'detail');
  return detail === undefined ? code : `${code}, ${detail}`;
}

/** A field of an unsigned answer. */
export function fieldOf(body: unknown, name: string): unknown {
  return typeof body === 'object' && body !== null ? Reflect.get(body, name) : undefined;
}
