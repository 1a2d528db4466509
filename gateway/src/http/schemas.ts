import { z } from '@hono/zod-openapi';
import { describedProblemSchema } from '@sitecast/shared/api';
import { nameSchema } from '@sitecast/shared/release';

export const JSON_TYPE = 'application/json';
export const BYTES_TYPE = 'application/octet-stream';
const MAX_ID_CHARS = 64;
const problemSchema = describedProblemSchema('SITECAST_REQUEST_UNSIGNED');

export const problem = (description: string) => ({
  description,
  content: { 'application/problem+json': { schema: problemSchema } },
});

export const bytesSchema = z.string().openapi({ type: 'string', format: 'binary' });

export const idParams = z.object({
  id: z
    .string()
    .max(MAX_ID_CHARS)
    .regex(/^[1-9A-HJ-NP-Za-km-z]+$/)
    .openapi({ param: { name: 'id', in: 'path' } }),
});

const counterParam = (name: string) =>
  z
    .string()
    .regex(/^[1-9]\d{0,14}$/)
    .transform(Number)
    .openapi({ type: 'integer', param: { name, in: 'path' } });

/** A delta: from the release that a device runs to another one. */
export const deltaParams = z.object({
  product: z
    .string()
    .refine(name => nameSchema.safeParse(name).success)
    .openapi({ param: { name: 'product', in: 'path' } }),
  from: counterParam('from'),
  to: counterParam('to'),
});

const PROBLEMS = {
  400: problem('The request is invalid.'),
  401: problem('The signature of the request is missing, wrong, too old or was here before.'),
  403: problem('Not yours, or revoked.'),
  404: problem('There is no such thing.'),
  409: problem('In conflict with what is there.'),
  413: problem('Too large.'),
  415: problem('Not JSON.'),
  422: problem('A signature is wrong.'),
  429: problem('Too many requests.'),
  500: problem('The gateway failed.'),
  503: problem('Busy, or no upstream can be reached: try again.'),
  507: problem('No space left: keep it, and try again.'),
};

/** The responses that any route of the site API can give. */
export function withProblems<T extends Record<number, object>>(responses: T) {
  return { ...responses, ...PROBLEMS };
}
