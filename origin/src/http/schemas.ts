import { z } from '@hono/zod-openapi';
import { describedProblemSchema } from '@sitecast/shared/api';
import type { TokenRole } from '../tokens/token-store.ts';

export const JSON_TYPE = 'application/json';
export const BYTES_TYPE = 'application/octet-stream';

/** The security of a route that needs a token of this role, in the OpenAPI document. The list holds role names (OpenAPI 3.1, 4.8.30). */
export function bearer(role: TokenRole): { bearer: string[] }[] {
  return [{ bearer: [role] }];
}

/** The security of a route whose requests are signed: by an enrolled device or gateway, or by the holder of any key. */
export function signature(by: 'member' | 'anybody'): { signature: string[] }[] {
  return [{ signature: [by] }];
}

/** An answer of JSON, as the OpenAPI document describes it. */
export const jsonAnswer = <T extends z.ZodType>(description: string, schema: T) => ({
  description,
  content: { [JSON_TYPE]: { schema } },
});

/** A request body of JSON that must be there. */
export const jsonBody = <T extends z.ZodType>(schema: T) => ({
  required: true,
  content: { [JSON_TYPE]: { schema } },
});

export const bytesSchema = z.string().openapi({ type: 'string', format: 'binary' });

const problemSchema = describedProblemSchema('SITECAST_TOKEN_MISSING');

/** An error, as the OpenAPI document describes it. */
export const problem = (description: string) => ({
  description,
  content: { 'application/problem+json': { schema: problemSchema } },
});

/** The responses that any route behind a token can give. */
export function withProblems<T extends Record<number, object>>(responses: T) {
  return {
    ...responses,
    400: problem('The request is invalid.'),
    401: problem('The API token is missing, unknown or expired.'),
    403: problem("The token's role isn't enough."),
    409: problem('In conflict with what is there.'),
    413: problem('Too large.'),
    422: problem('A signature, a hash or a chunk is wrong.'),
    500: problem('The origin failed.'),
    429: problem('More than the sender may: later.'),
    503: problem('Busy: try again.'),
    507: problem('No space left.'),
  };
}
