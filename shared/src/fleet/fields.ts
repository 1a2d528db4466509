import { z } from 'zod';
import { isId } from '../identity/index.ts';
import { counterSchema, versionSchema } from '../release/index.ts';

const MAX_TAGS = 64;
const MAX_TAG_CHARS = 128;

export const idSchema = z.string().refine(isId, 'expected the id of a device or gateway (12D3KooW…)');
export const instantSchema = z.iso.datetime();
export const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/, '64 lower-case hexadecimal digits');

/** A site's name. It has no meaning outside of the fleet. */
export const siteSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/,
    'letters, digits, and . _ - between them (at most 64)',
  );

/**
 * A device's or gateway's name for people, unique in a fleet whatever its case. It is ASCII, so that only similar letters and digits look
 * alike. No name can be taken for an id, or for the beginning of one.
 */
export const memberNameSchema = z
  .string()
  .regex(
    /^(?!12d3koow)[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$/i,
    'letters, digits, and . _ - between them (at most 63), and not the beginning of an id',
  );

/** The form in which names are compared. */
export const nameKey = (name: string): string => name.toLowerCase();

export const tagsSchema = z
  .record(z.string().regex(/^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/), z.string().max(MAX_TAG_CHARS))
  .refine(tags => Object.keys(tags).length <= MAX_TAGS, `at most ${MAX_TAGS} tags`);

/** Tags from an operator or a token. They will be signed, and readers refuse half a surrogate pair. */
export const givenTagsSchema = tagsSchema.refine(
  tags => Object.values(tags).every(value => value.isWellFormed()),
  'text that is Unicode',
);

export const releaseRefSchema = z.strictObject({ counter: counterSchema, version: versionSchema });
export type ReleaseRef = z.infer<typeof releaseRefSchema>;

export const rolloutIdSchema = z
  .string()
  .regex(/^[0-9a-f]{16}$/, 'expected the id of a rollout (16 hexadecimal digits)');
