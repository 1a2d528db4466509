import { array, assert, constantFrom, integer, nat, oneof, property, string, uint8Array } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cutText, cutTextStart, decodeTail, outputText, plural } from './index.ts';

/** Any UTF-16 text, with lone surrogates. */
const anyText = oneof(
  string({ unit: 'binary', maxLength: 40 }),
  array(constantFrom('\ud83d', '\ude00', '😀', 'a', '\0', 'ä', '\u2028'), { maxLength: 40 }).map(parts =>
    parts.join(''),
  ),
  array(integer({ min: 0, max: 0xffff }), { maxLength: 40 }).map(units => String.fromCharCode(...units)),
);
const emoji = '😀'.repeat(200);

describe.each([
  ['cutText', cutText],
  ['cutTextStart', cutTextStart],
])('%s', (_name, cut) => {
  it('returns well-formed text within the length, and leaves well-formed text that fits unchanged', () => {
    assert(
      property(anyText, nat(45), (text, maxChars) => {
        const kept = cut(text, maxChars);
        expect(kept.isWellFormed()).toBe(true);
        expect(kept.length).toBeLessThanOrEqual(maxChars);
        // At most half of a pair is dropped.
        expect(kept.length).toBeGreaterThanOrEqual(Math.min(text.length, maxChars) - 1);
        expect(cut(text, Math.max(maxChars, text.length))).toBe(text.toWellFormed());
        expect(cut(kept, maxChars)).toBe(kept);
      }),
    );
  });
});

it('never leaves half a surrogate pair at the cut', () => {
  expect(cutText(`x${emoji}`, 400)).toBe(`x${'😀'.repeat(199)}`);
  expect(cutTextStart(`${emoji}x`, 400)).toBe(`${'😀'.repeat(199)}x`);
  expect(cutText(emoji, 400)).toBe(emoji);
  expect(cutTextStart(emoji, 400)).toBe(emoji);
  expect([cutText('😀', 1), cutText('😀', 0), cutTextStart('😀', 1), cutTextStart('😀', 0)]).toEqual([
    '',
    '',
    '',
    '',
  ]);
  expect([cutText('a\ud83d', 2), cutTextStart('\ude00a', 2)]).toEqual(['a\ufffd', '\ufffda']);
});

it.each([
  ['', 'no output'],
  [' \n', 'no output'],
  ['a\nb\n', 'a\nb'],
  ['no camera', 'mera'],
])('a command that printed %j is quoted as %j', (output, told) => {
  expect(outputText(output, 4).slice(0, 9)).toBe(told);
});

describe('the last bytes of an output', () => {
  it('drop the rest of a character whose beginning is gone, and nothing else', () => {
    const bytes = Buffer.from('ä😀x');
    for (const [at, text] of ['ä😀x', '😀x', '😀x', 'x', 'x', 'x', 'x', ''].entries())
      expect(decodeTail(bytes.subarray(at), true)).toBe(text);
    expect(decodeTail(bytes, false)).toBe('ä😀x');
  });

  it('are well-formed text for any bytes', () => {
    expect(decodeTail(Buffer.from('Gerät', 'latin1'), false)).toBe('Ger\ufffdt');
    expect(decodeTail(Buffer.from('a\0b'), false)).toBe('a\0b');
    assert(property(uint8Array(), bytes => decodeTail(bytes, true).isWellFormed()));
  });
});

it('a count agrees with its noun', () => {
  expect([0, 1, 2, 1200].map(count => plural(count, 'chunk'))).toEqual([
    '0 chunks',
    '1 chunk',
    '2 chunks',
    '1,200 chunks',
  ]);
});
