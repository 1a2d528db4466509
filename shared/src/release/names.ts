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

/** What a target name of a Sitecast repository stands for. */
export type TargetName =
  | { kind: 'manifest' | 'index'; product: string; counter: number }
  | { kind: 'product'; product: string };

export const manifestTarget = (product: string, counter: number): string =>
  `releases/${product}-${counter}.json`;
export const indexTarget = (product: string, counter: number): string =>
  `releases/${product}-${counter}.caibx`;
export const productTarget = (product: string): string => `products/${product}.json`;

/** The reverse of the three above; undefined for a name that Sitecast wouldn't have given. */
export function parseTargetName(target: string): TargetName | undefined {
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
