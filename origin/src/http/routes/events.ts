import { createRoute, z } from '@hono/zod-openapi';
import { rolloutIdSchema } from '@sitecast/shared/fleet';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole } from '../guards.ts';
import { bearer, withProblems } from '../schemas.ts';

const MAX_EVENT_ID_CHARS = 64;

/** The event stream. */
export function eventRoutes(app: OriginApp, { tokens, eventStreams }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/events',
      summary: 'Transitions of rollouts and devices as server-sent events.',
      description:
        'The first event is `ready`, or `resync` where events since Last-Event-ID are lost: then ask for the state anew.',
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: {
        query: z.object({ rollout: rolloutIdSchema.optional() }),
        headers: z.object({ 'last-event-id': z.string().max(MAX_EVENT_ID_CHARS).optional() }),
      },
      responses: withProblems({
        200: {
          description:
            'The stream. Ids are EPOCH-NUMBER; data is JSON with `at`, `rollout`, `device`, its `name`, `data`.',
          content: { 'text/event-stream': { schema: z.string() } },
        },
      }),
    }),
    c => {
      // The route for GET answers HEAD too. No stream is opened for it.
      if (c.req.method === 'HEAD') return c.body(null, 200, { 'content-type': 'text/event-stream' });
      const authorization = c.req.header('authorization');
      return eventStreams.open(c, {
        rollout: c.req.valid('query').rollout,
        lastEventId: c.req.valid('header')['last-event-id'],
        checkMay: () => void tokens.authorise(authorization, 'viewer'),
      });
    },
  );
}
