import { cutText } from '@sitecast/shared/text';

/** What a code of ours looks like. */
const CODE = /^[A-Z][A-Z0-9_]{2,63}$/;
const MAX_TEXT_CHARS = 300;

/** A text in an answer that nobody vouches for, shortened. */
export function textOf(body: unknown, name: string): string | undefined {
  const text = fieldOf(body, name);
  return typeof text === 'string' ? cutText(text, MAX_TEXT_CHARS) : undefined;
}

/** What an answer says is wrong (RFC 9457), shortened; undefined where it doesn't say. */
export function problemIn(body: unknown): string | undefined {
  const code = textOf(body, 'code');
  if (code === undefined || !CODE.test(code)) return undefined;
  const detail = textOf(body, 'detail');
  return detail === undefined ? code : `${code}, ${detail}`;
}

/** A field of an answer that nobody vouches for. */
export function fieldOf(body: unknown, name: string): unknown {
  return typeof body === 'object' && body !== null ? Reflect.get(body, name) : undefined;
}
