import { expect, it } from 'vitest';
import { facts, field, table, textOf, widthOf } from './output.ts';

it('a table is aligned, whatever script its cells are in and whatever invisible characters they hold', () => {
  const lines = table(
    ['SITE', 'STATE'],
    [
      ['東京', 'ok'],
      ['Zu\u0308rich', 'ok'],
      ['📷', 'ok'],
      ['a\nb\tc', 'ok'],
      ['x\u200b\u{e0041}', 'ok'],
      ['a      ok', 'ok'],
      ['हिन्दी', ''],
    ],
  );
  expect(lines).toHaveLength(8);
  for (const line of lines.slice(0, -1)) {
    const cells = /^(.*?)\s+(STATE|ok)$/.exec(line);
    expect(widthOf(line) - (cells?.[2]?.length ?? 0)).toBe(9);
  }
  expect(lines[4]).toBe('a ↵ b c  ok');
  expect(lines[6]).toBe('a ok     ok');
  expect(lines.at(-1)).toBe('हिन्दी');
});

it('a table may have more rows than a function call has arguments', () => {
  expect(
    table(
      ['A'],
      Array.from({ length: 200_000 }, () => ['x']),
    ),
  ).toHaveLength(200_001);
});

it('each text becomes one line', () => {
  expect(textOf(['a\nb', 'c'])).toBe('a ↵ b\nc\n');
  expect(textOf('a\u001bb')).toBe('a\ufffdb\n');
  expect(field(' a \u2800\u3000 b\n')).toBe('a b ↵');
  expect(
    facts([
      ['state', 'x\nstate  y'],
      ['id', 'z'],
    ]),
  ).toEqual(['state  x ↵ state y', 'id     z']);
});
