import { createRoute, z } from '@hono/zod-openapi';
import { SitecastError } from '@sitecast/shared/errors';
import { warningsOf } from '../../repository/description.ts';
import { demandRoom } from '../../storage/room.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { problemSchema } from '../problem.ts';
import { JSON_TYPE } from '../schemas.ts';

/** For load balancers and Prometheus. */
export function healthRoutes(app: OriginApp, { repository, state, room, metrics, now }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/healthz',
      summary: 'Answers as long as the process does.',
      responses: {
        200: {
          description: 'Alive.',
          content: { [JSON_TYPE]: { schema: z.object({ status: z.literal('ok') }) } },
        },
      },
    }),
    c => c.json({ status: 'ok' as const }, 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/readyz',
      summary: 'Whether clients get what they need from this origin.',
      responses: {
        200: {
          description: 'Ready.',
          content: {
            [JSON_TYPE]: { schema: z.object({ status: z.literal('ready'), initialised: z.boolean() }) },
          },
        },
        503: {
          description: 'Not ready; the detail says why.',
          content: { 'application/problem+json': { schema: problemSchema } },
        },
      },
    }),
    async c => {
      const expired = warningsOf(repository, now()).find(({ code }) => code === 'SITECAST_ROLE_EXPIRED');
      const why =
        expired?.message ??
        state.trouble?.message ??
        state.damage?.message ??
        (repository.isSettled ? undefined : 'the end of a change could not be written to the disk yet');
      if (why !== undefined) throw new SitecastError('unreachable', 'SITECAST_NOT_READY', why);
      await demandRoom(room).catch(({ message }: SitecastError) => {
        throw new SitecastError('unreachable', 'SITECAST_NOT_READY', message);
      });
      return c.json({ status: 'ready' as const, initialised: repository.committed !== undefined }, 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/metrics',
      summary: 'Metrics for Prometheus.',
      responses: { 200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } } },
    }),
    async c => c.text(await metrics.text(), 200, { 'content-type': metrics.contentType }),
  );
}
