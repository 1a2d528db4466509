import { z } from 'zod';
import { named } from './schemas.ts';

/** An error as an HTTP answer (RFC 9457). Its code never changes. */
export const problemSchema = z.object({
  type: z.literal('about:blank'),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
  hint: z.string().optional(),
  data: z.record(z.string(), z.unknown()).optional(),
});

/** The same for the OpenAPI document of a server. @param exampleCode one of that server's codes */
export const describedProblemSchema = (exampleCode: string) =>
  named('Problem', problemSchema.extend({ code: z.string().meta({ example: exampleCode }) }));
