import { auditPageSchema } from '@sitecast/shared/api';
import { createRoute, z } from '@hono/zod-openapi';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole } from '../guards.ts';
import { bearer, jsonAnswer, withProblems } from '../schemas.ts';

/** Entries in one answer: about 5 MiB at the most. */
export const MAX_AUDIT_PAGE = 1000;
const DEFAULT_AUDIT_PAGE = 100;
const MAX_FILTER_CHARS = 256;

/** The audit log, for operators. It holds names and reasons, which viewers don't see elsewhere. */
export function auditRoutes(app: OriginApp, { tokens, audit, fleet }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/audit',
      summary:
        'The audit log from its beginning or what is wanted of it, page by page, and where it ends now.',
      security: bearer('operator'),
      middleware: [requireRole(tokens, 'operator')],
      request: {
        query: z.object({
          after: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
          by: z.string().max(MAX_FILTER_CHARS).optional(),
          action: z.string().max(MAX_FILTER_CHARS).optional(),
          subject: z.string().max(MAX_FILTER_CHARS).optional(),
          since: z.iso.datetime().optional(),
          until: z.iso.datetime().optional(),
          limit: z.coerce.number().int().min(1).max(MAX_AUDIT_PAGE).default(DEFAULT_AUDIT_PAGE),
        }),
      },
      responses: withProblems({
        200: jsonAnswer(
          'Entries after `after` that are wanted, in order; `after` is the last that was looked at, and `head` the last there is.',
          auditPageSchema,
        ),
      }),
    }),
    async c => {
      const { after, limit, since, until, ...named } = c.req.valid('query');
      const { head } = audit;
      const times = { sinceMs: msOf(since), untilMs: msOf(until) };
      const found = await audit.find(after, limit, { ...named, ...times });
      const ids = found.entries.map(({ subject }) => subject.slice(subject.indexOf(':') + 1));
      return c.json({ ...found, names: fleet.registry.namesOf(ids), head }, 200);
    },
  );
}

const msOf = (instant: string | undefined): number | undefined =>
  instant === undefined ? undefined : Date.parse(instant);
