import { createRoute, z } from '@hono/zod-openapi';
import { createdTokenSchema, newTokenSchema, tokenListSchema } from '@sitecast/shared/api';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole, takeJson } from '../guards.ts';
import { bearer, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';

const MAX_TOKEN_BODY_BYTES = 4 * 1024;

/** API tokens: an admin creates, lists and revokes them. */
export function tokenRoutes(app: OriginApp, { tokens, bodies }: AppDeps): void {
  const admin = requireRole(tokens, 'admin');

  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/tokens',
      summary: 'Makes a token. It is shown this once.',
      security: bearer('admin'),
      middleware: takeJson({ tokens, bodies }, 'admin', MAX_TOKEN_BODY_BYTES),
      request: { body: jsonBody(newTokenSchema) },
      responses: withProblems({
        201: jsonAnswer('The token.', createdTokenSchema),
      }),
    }),
    async c => c.json(await tokens.create(c.req.valid('json'), c.get('token').name), 201),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/tokens',
      summary: 'All tokens, without their secrets.',
      security: bearer('admin'),
      middleware: [admin],
      responses: withProblems({
        200: jsonAnswer('The tokens, oldest first.', tokenListSchema),
      }),
    }),
    c => c.json({ tokens: tokens.list() }, 200),
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: '/api/v1/tokens/{id}',
      summary: 'Revokes a token at once.',
      security: bearer('admin'),
      middleware: [admin],
      request: { params: z.object({ id: z.string().regex(/^[0-9a-f]{16}$/) }) },
      responses: withProblems({ 204: { description: 'Revoked.' } }),
    }),
    async c => {
      await tokens.revoke(c.req.valid('param').id, c.get('token').name);
      return c.body(null, 204);
    },
  );
}
