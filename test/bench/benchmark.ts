export interface Benchmark {
  readonly name: string;
  /** One line: what is measured, and what it is compared with. */
  readonly what: string;
  /** Figures of this run. They may be compared only with each other: machines differ, ratios less so. */
  run(): Promise<readonly Row[]>;
}

/** A benchmark can't run here. The message says what is missing. */
export class CannotMeasure extends Error {}

/** One line of a table: column name to figure. All rows of a table have the same columns. */
export type Row = Readonly<Record<string, string | number>>;

export function printTable(rows: readonly Row[]): void {
  const columns = Object.keys(rows[0] ?? {});
  const lines = [columns, ...rows.map(row => columns.map(column => String(row[column] ?? '')))];
  const widths = columns.map((_, at) => Math.max(...lines.map(line => line[at]?.length ?? 0)));
  for (const line of lines) {
    const cells = line.map((cell, at) =>
      at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0),
    );
    process.stdout.write(`  ${cells.join('  ').trimEnd()}\n`);
  }
}

/** A figure with two decimal places. */
export function ratio(one: number, other: number): string {
  return (one / other).toFixed(2);
}

export function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
