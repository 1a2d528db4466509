import { cutText } from '@sitecast/shared/text';
import { z } from 'zod';

/** Of a text that an upstream gave. */
const MAX_TOLD_CHARS = 500;
const told = z
  .string()
  .transform(text => cutText(text, MAX_TOLD_CHARS))
  .optional()
  .catch(undefined);
const problemSchema = z.object({ detail: told, hint: told }).catch({ detail: undefined, hint: undefined });

/** What an upstream says that is wrong, for the log: of an error as HTTP answer (RFC 9457), or of whatever came instead. */
export function problemIn(json: unknown): { detail?: string | undefined; hint?: string | undefined } {
  return problemSchema.parse(json);
}
