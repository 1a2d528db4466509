import { createRoute, z } from '@hono/zod-openapi';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole } from '../guards.ts';
import { bearer, JSON_TYPE, withProblems } from '../schemas.ts';

/** Entries in one answer: about 5 MiB at the most. */
export const MAX_AUDIT_PAGE = 1000;
const DEFAULT_AUDIT_PAGE = 100;

const entrySchema = z
  .object({
    seq: z.int(),
    at: z.string(),
    by: z.string(),
    action: z.string(),
    subject: z.string(),
    details: z.record(z.string(), z.unknown()).optional(),
    previous: z.string().nullable(),
    hash: z.string(),
  })
  .openapi('AuditEntry');

/** Who did what when, for operators: what a viewer sees elsewhere doesn't hold names and reasons. */
export function auditRoutes(app: OriginApp, { tokens, audit }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/audit',
      summary: 'The audit log from its beginning, page by page, and where it ends now.',
      security: bearer('operator'),
      middleware: [requireRole(tokens, 'operator')],
      request: {
        query: z.object({
          after: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
          limit: z.coerce.number().int().min(1).max(MAX_AUDIT_PAGE).default(DEFAULT_AUDIT_PAGE),
        }),
      },
      responses: withProblems({
        200: {
          description: 'Entries after `after`, in order; `head` is the last one there is.',
          content: {
            [JSON_TYPE]: {
              schema: z.object({
                entries: z.array(entrySchema),
                head: z.object({ seq: z.int(), hash: z.string().nullable() }),
              }),
            },
          },
        },
      }),
    }),
    async c => {
      const { after, limit } = c.req.valid('query');
      const { head } = audit;
      return c.json({ entries: await audit.entries(after, limit), head }, 200);
    },
  );
}
