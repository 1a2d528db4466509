import { describe, expect, it } from 'vitest';
import { MAX_JSON_DEPTH, parseStrictJson } from './strict-json.ts';

const bytes = (text: string): Uint8Array => Buffer.from(text, 'utf8');
const parse = (text: string) => parseStrictJson(bytes(text));

describe('strict JSON', () => {
  it('parses what JSON.parse parses', () => {
    const text =
      '{"a":[1,-2,0,true,null,"\\u00e9\\"\\\\ {\\"b\\":1}"],"":{},"e":[], "nested":{"a":{"a":"a"}}}';
    expect(parse(text)).toEqual(JSON.parse(text));
    expect(parse(' "\\ud83d\\ude00" ')).toBe('😀');
    expect(parse('9007199254740991')).toBe(Number.MAX_SAFE_INTEGER);
  });

  it.each([
    ['a duplicate name', '{"a":1,"b":{"a":1},"a":2}'],
    ['a duplicate name with the same value', '{"a":1,"a":1}'],
    ['a duplicate name in another spelling', '{"a":1,"\\u0061":1}'],
    ['a duplicate name after a nested object', '{"a":{"x":1},"b":[{"a":1}],"a":2}'],
    ['__proto__', '{"__proto__":{"version":1}}'],
    ['__proto__ in another spelling', '{"\\u005f_proto__":1}'],
    ['a number beyond 2^53 - 1', '9007199254740992'],
    ['a number below -(2^53 - 1)', '[-9007199254740992]'],
    ['a number of a thousand digits', '1'.repeat(1000)],
    ['a fraction', '{"version":1.5}'],
    ['a fraction of nothing', '1.0'],
    ['an exponent', '1e3'],
    ['an exponent beyond all', '1e999'],
    ['negative zero', '-0'],
    ['half a surrogate pair', '"\\ud800"'],
    ['half a surrogate pair in a name', '{"\\udc00":1}'],
    ['surrogates in the wrong order', '"\\ude00\\ud83d"'],
    ['a second value', '{} {}'],
    ['a half file', '{"signed": {"_type": "ro'],
    ['nothing', ''],
    ['a byte order mark', '\ufeff{}'],
    ['a comment', '{} // x'],
    ['a raw control character', '"\u0001"'],
  ])('refuses %s', (_, text) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ code: 'SITECAST_JSON_REFUSED' }));
  });

  it.each([
    ['a raw surrogate', [0x22, 0xed, 0xa0, 0x80, 0x22]],
    ['a cut sequence', [0x22, 0xc3, 0x22]],
    ['an overlong sequence', [0x22, 0xc0, 0xaf, 0x22]],
    ['zero bytes', [0, 0, 0, 0]],
  ])('refuses invalid UTF-8: %s', (_, raw) => {
    expect(() => parseStrictJson(Uint8Array.from(raw))).toThrow(
      expect.objectContaining({ code: 'SITECAST_JSON_REFUSED' }),
    );
  });

  it('replaces a lone surrogate in a value where that is asked for, but never in a name', () => {
    const replaced = (text: string) => parseStrictJson(bytes(text), undefined, 'replace');
    expect(replaced('{"a":["x\\ud83d","\\ud83d\\ude00",{"b":"\\ude00"}]}')).toEqual({
      a: ['x\ufffd', '😀', { b: '\ufffd' }],
    });
    for (const text of ['{"\\udc00":1}', '{"a":1,"a":1}', '{"__proto__":"\\ud800"}', '1.5'])
      expect(() => replaced(text)).toThrow(expect.objectContaining({ code: 'SITECAST_JSON_REFUSED' }));
  });

  it('bounds the depth', () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    expect(() => parse(nested(MAX_JSON_DEPTH))).not.toThrow();
    expect(() => parse(nested(MAX_JSON_DEPTH + 1))).toThrow('nested deeper');
    expect(() => parse(nested(100_000))).toThrow('nested deeper');
  });

  it('parses a very long string', () => {
    const long = 'a\\n'.repeat(300_000);
    expect(parse(`["${long}"]`)).toEqual([long.replaceAll('\\n', '\n')]);
  });

  it('bounds the length', () => {
    expect(parseStrictJson(bytes('"abc"'), 5)).toBe('abc');
    expect(() => parseStrictJson(bytes('"abcd"'), 5)).toThrow(
      expect.objectContaining({ code: 'SITECAST_JSON_TOO_LARGE', kind: 'tooLarge' }),
    );
  });
});
