import { createHash } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { createdJoinTokenSchema, joinTokenListSchema, newJoinTokenSchema } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { unknownNames } from '../../rollouts/match.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole, takeJson } from '../guards.ts';
import { bearer, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';

const MAX_JOIN_TOKEN_BODY_BYTES = 4 * 1024;

/** Join tokens, which enrol devices and gateways without an operator. */
export function joinTokenRoutes(app: OriginApp, deps: AppDeps): void {
  createTokenRoute(app, deps);
  otherRoutes(app, deps);
}

function createTokenRoute(app: OriginApp, { tokens, fleet, repository, bodies }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/join-tokens',
      summary: 'Makes a join token. Its text is shown this once.',
      security: bearer('operator'),
      middleware: takeJson({ tokens, bodies }, 'operator', MAX_JOIN_TOKEN_BODY_BYTES),
      request: { body: jsonBody(newJoinTokenSchema) },
      responses: withProblems({
        201: jsonAnswer('The token.', createdJoinTokenSchema),
      }),
    }),
    async c => {
      const root = await repository.firstRoot();
      if (!root) throw notInitialised();
      const rootSha256 = createHash('sha256').update(root).digest('hex');
      const by = c.get('token').name;
      const wanted = c.req.valid('json');
      const names = wanted.site === undefined ? {} : { site: [wanted.site] };
      const unknown = unknownNames(names, fleet.registry);
      const made = await fleet.joinTokens.create(wanted, rootSha256, by);
      return c.json({ ...made, ...(unknown.length > 0 && { unknown }) }, 201);
    },
  );
}

function otherRoutes(app: OriginApp, { tokens, fleet }: AppDeps): void {
  const operator = requireRole(tokens, 'operator');

  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/join-tokens',
      summary: 'All join tokens, without their secrets.',
      security: bearer('operator'),
      middleware: [operator],
      responses: withProblems({
        200: jsonAnswer('The tokens, oldest first.', joinTokenListSchema),
      }),
    }),
    c => c.json({ joinTokens: fleet.joinTokens.list() }, 200),
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: '/api/v1/join-tokens/{id}',
      summary: 'Makes a join token worthless, at once. Whoever it let in stays.',
      security: bearer('operator'),
      middleware: [operator],
      request: { params: z.object({ id: z.string().regex(/^[0-9a-f]{64}$/) }) },
      responses: withProblems({
        204: { description: 'Deleted.' },
        404: { description: 'There is no such one.' },
      }),
    }),
    async c => {
      await fleet.joinTokens.remove(c.req.valid('param').id, c.get('token').name);
      return c.body(null, 204);
    },
  );
}

function notInitialised(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NOT_INITIALISED',
    'the repository is empty: a join token tells newcomers which root to trust',
    { hint: 'Run sitecast init.' },
  );
}
