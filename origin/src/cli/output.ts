import { plainJson, plainLine } from '@sitecast/shared/command';
import stringWidth from 'string-width';

export { formatBytes } from '@sitecast/shared/text';

/**
 * What a command prints: results to standard output, further messages for people to standard error. Each given text becomes one
 * line, whatever characters it holds: a table escapes its cells first.
 */

export function print(lines: string | readonly string[]): void {
  process.stdout.write(textOf(lines));
}

export function printJson(value: unknown): void {
  process.stdout.write(`${plainJson(JSON.stringify(value))}\n`);
}

/** For a person, not for a pipe. */
export function note(lines: string | readonly string[]): void {
  process.stderr.write(textOf(lines));
}

/** The lines as `print` writes them. */
export function textOf(lines: string | readonly string[]): string {
  return [lines]
    .flat()
    .map(line => `${plainLine(line)}\n`)
    .join('');
}

/** Free text within a line. It can't imitate the gap before the next column. */
export function field(text: string): string {
  if (PLAIN_WORD.test(text)) return text;
  return plainLine(text).replace(BLANKS, ' ').trim();
}

/** A fast path: most fields are ids, names and numbers. */
const PLAIN_WORD = /^[!-~]*$/;

/** U+2800 is Braille without a dot. */
const BLANKS = /[\s\u2800]+/gu;

/** Columns that a line takes on a terminal. East Asian letters and emoji take two, combining marks none. */
export function widthOf(line: string): number {
  return PLAIN_LINE.test(line) ? line.length : stringWidth(line.replace(MARKS, ''));
}

const PLAIN_LINE = /^[ -~]*$/;
const MARKS = /[\p{Mn}\p{Me}]/gu;

/** Left-aligned columns under their headings, one line per row. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [headings, ...rows].map(cells => cells.map(field));
  const widths = headings.map((_, column) =>
    lines.reduce((width, cells) => Math.max(width, widthOf(cells[column] ?? '')), 0),
  );
  return lines.map(cells =>
    cells
      .map((cell, column) => padded(cell, widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

/** Labels and their texts, one line each. */
export function facts(lines: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...lines.map(([name]) => widthOf(field(name))));
  return lines.map(([name, text]) => `${padded(field(name), width)}  ${field(text)}`);
}

const padded = (text: string, width: number): string => text + ' '.repeat(Math.max(0, width - widthOf(text)));

interface Called {
  id: string;
  name?: string | undefined;
}

/** The name that people read; the id of a member without one. */
export const calledText = ({ id, name }: Called): string => name ?? id;

/** Name and id, where the reader must tell two members apart. */
export const idText = ({ id, name }: Called): string => (name === undefined ? id : `${name} (${id})`);
