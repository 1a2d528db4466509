import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { plainJson, plainLine } from './plain-text.ts';

/** Characters that must never reach a terminal in text from others. Line feeds and tabs are tested separately. */
const OBEYED = /(?![\t\n])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u;
const FFFD = '\ufffd';

describe('text from others', () => {
  it.each([
    ['a line break', 'ok\nnorth-2  completed', 'ok ↵ north-2  completed'],
    ['every other line break', 'a\r\nb\vc\fd\u0085e\u2028f\u2029g', 'a ↵ b ↵ c ↵ d ↵ e ↵ f ↵ g'],
    ['a tab', 'a\tb', 'a b'],
    ['an escape sequence', 'a\u001b[2J\u009b1A\u007f', `a${FFFD}[2J${FFFD}1A${FFFD}`],
    [
      'zero-width characters',
      'n\u200bo\u200cr\u200dt\u2060h\ufeff',
      `n${FFFD}o${FFFD}r${FFFD}t${FFFD}h${FFFD}`,
    ],
    ['invisible operators', 'a\u2061\u2062\u2063\u2064b', `a${FFFD.repeat(4)}b`],
    ['marks that turn text round', '\u202eevil\u2066\u061c\u200f', `${FFFD}evil${FFFD.repeat(3)}`],
    ['tags, a message that nobody sees', 'ok\u{e0041}\u{e0042}\u{e007f}', `ok${FFFD.repeat(3)}`],
    ['variation selectors that carry bytes', 'a\ufe00\u{e0100}\u{e01ef}', `a${FFFD.repeat(3)}`],
    ['letters that are blank', 'a\u3164b\uffa0c\u115fd\u00ade', `a${FFFD}b${FFFD}c${FFFD}d${FFFD}e`],
    ['half a surrogate pair', 'a\ud83d', `a${FFFD}`],
    ['marks heaped on a letter', `e${'\u0301'.repeat(50)}x`, `e${'\u0301'.repeat(4)}${FFFD}x`],
    ['a mark for what stands before it', '\u0338seen', `${FFFD}seen`],
  ])('with %s becomes one harmless line', (_what, text, shown) => {
    expect(plainLine(text)).toBe(shown);
  });

  it('that is harmless stays unchanged', () => {
    for (const text of ['Zürich', '東京', 'İstanbul', 'हिन्दी', 'ภาษาไทย', 'שלום', '📷 👍🏽', 'e\u0301'])
      expect(plainLine(text)).toBe(text);
    expect(plainLine('❤\ufe0f')).toBe('❤');
  });

  it('never keeps a character that a terminal obeys or hides', () => {
    const nasty = fc.constantFrom(
      '\n',
      '\t',
      '\u001b',
      '\u200b',
      '\u{e0041}',
      '\u0301',
      '\ud800',
      '\u2028',
      'é',
    );
    // Not fc.string({ unit: 'binary' }): for that, fast-check makes a map of all the 1.1 million code points.
    const codePoint = fc.nat(0x10_ffff).map(number => String.fromCodePoint(number));
    const any = fc.array(fc.oneof(nasty, codePoint, codePoint)).map(parts => parts.join(''));
    fc.assert(
      fc.property(any, text => {
        const line = plainLine(text);
        expect(line).not.toMatch(OBEYED);
        expect(line).not.toMatch(/[\t\n]/);
        expect(plainLine(line)).toBe(line);
      }),
    );
  });
});

it('JSON becomes safe to print, and parses to the same value', () => {
  const value = { message: 'a\u001b\u009b\u202e\u200b\u{e0041}\n\ud800 東京 é' };
  const json = plainJson(JSON.stringify(value));
  expect(json).not.toMatch(OBEYED);
  expect(JSON.parse(json)).toEqual(value);
});
