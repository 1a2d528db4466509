import { z } from 'zod';

const MAX_NAME_CHARS = 64;
const NAME = /^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/;

/** A product's or a hardware's name: it becomes a part of file names, so there's no way to climb out of a folder. */
export const nameSchema = z
  .string()
  .max(MAX_NAME_CHARS)
  .regex(NAME, 'lower-case letters, digits, and . _ - between them (at most 64 characters)')
  .refine(name => !name.includes('..'), 'no two dots in a row');

/** A release's label: semver, dates, 1.2.3.4: anything without spaces, slashes or control characters. */
export const versionSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._+~:-]{0,63}$/,
    'a letter or digit, then up to 63 of A-Z a-z 0-9 . _ + ~ : -',
  );

/** Orders the releases of a product; 1 is the first. */
export const counterSchema = z.int().min(1).max(Number.MAX_SAFE_INTEGER);

/** A delta: from one release of a product to another, by their counters. */
export interface DeltaName {
  product: string;
  /** Of the release that a device runs. */
  from: number;
  /** Of the release that is installed. */
  to: number;
}

/** What a target name of a Sitecast repository stands for. */
export type TargetName =
  | { kind: 'manifest' | 'index'; product: string; counter: number }
  | { kind: 'product'; product: string }
  | ({ kind: 'recipe' | 'patchIndex' } & DeltaName);

export const manifestTarget = (product: string, counter: number): string =>
  `releases/${product}-${counter}.json`;
export const indexTarget = (product: string, counter: number): string =>
  `releases/${product}-${counter}.caibx`;
export const productTarget = (product: string): string => `products/${product}.json`;
/** The recipe of a delta: which windows it has, and how they are made. */
export const recipeTarget = (delta: DeltaName): string => `${deltaStem(delta)}.recipe`;
/** The chunks that hold the patches of a delta, as a casync index. */
export const patchIndexTarget = (delta: DeltaName): string => `${deltaStem(delta)}.caibx`;

const deltaStem = ({ product, from, to }: DeltaName): string => `deltas/${product}-${to}-from-${from}`;

/** The reverse of the five above; undefined for a name that Sitecast wouldn't have given. */
export function parseTargetName(target: string): TargetName | undefined {
  if (target.startsWith('deltas/')) return parseDeltaName(target);
  const release = /^releases\/(.{1,64})-([1-9]\d{0,15})\.(json|caibx)$/.exec(target);
  if (release) {
    const [, product = '', digits = '', ending] = release;
    const counter = Number(digits);
    if (!nameSchema.safeParse(product).success || !Number.isSafeInteger(counter)) return undefined;
    return { kind: ending === 'json' ? 'manifest' : 'index', product, counter };
  }
  const product = /^products\/(.{1,64})\.json$/.exec(target)?.[1];
  return product !== undefined && nameSchema.safeParse(product).success
    ? { kind: 'product', product }
    : undefined;
}

function parseDeltaName(target: string): TargetName | undefined {
  const [, product = '', toDigits, fromDigits, ending] =
    /^deltas\/(.{1,64})-([1-9]\d{0,15})-from-([1-9]\d{0,15})\.(recipe|caibx)$/.exec(target) ?? [];
  const [from, to] = [Number(fromDigits), Number(toDigits)];
  if (!nameSchema.safeParse(product).success) return undefined;
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to) || from === to) return undefined;
  return { kind: ending === 'recipe' ? 'recipe' : 'patchIndex', product, from, to };
}
