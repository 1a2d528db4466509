import { InvalidArgumentError } from 'commander';

/** A parser for a whole number within bounds, both included. */
export function parseBoundedInteger(min: number, max: number): (text: string) => number {
  return text => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`expected a whole number from ${min} to ${max}`);
    }
    return value;
  };
}

const UNIT_MS = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
  ['d', 86_400_000],
]);

/** `90s`, `15m`, `4h`, `14d` → milliseconds. */
export function parseDurationMs(text: string): number {
  const match = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text);
  const unitMs = UNIT_MS.get(match?.[2] ?? '');
  if (!match || unitMs === undefined)
    throw new InvalidArgumentError('expected a duration such as 90s, 15m, 4h or 14d');
  return Number(match[1]) * unitMs;
}

const UNIT_BITS_PER_S = new Map([
  ['kbit', 1000],
  ['Mbit', 1_000_000],
  ['Gbit', 1_000_000_000],
]);

/** `500kbit`, `10Mbit`, `1Gbit`, a second each → bytes per second. */
export function parseRate(text: string): number {
  const match = /^([1-9]\d{0,5})(kbit|Mbit|Gbit)$/.exec(text);
  const unit = UNIT_BITS_PER_S.get(match?.[2] ?? '');
  if (!match || unit === undefined)
    throw new InvalidArgumentError('expected a rate such as 500kbit or 10Mbit (a second)');
  return (Number(match[1]) * unit) / 8;
}

/** `5%` or `0.5%` → basis points (500, 50). */
export function parsePercent(text: string): number {
  const match = /^(\d{1,3}(?:\.\d{1,2})?)%?$/.exec(text);
  const basisPoints = match ? Math.round(Number(match[1]) * 100) : Number.NaN;
  if (!(basisPoints >= 0 && basisPoints <= 10_000))
    throw new InvalidArgumentError('expected a percentage such as 5%');
  return basisPoints;
}
