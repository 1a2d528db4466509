import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { diskFull } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { GatewayEnv } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { ownRevoked } from '../signed.ts';
import { JSON_TYPE, problem } from '../schemas.ts';

/** For load balancers and Prometheus. */
export function healthRoutes(
  app: OpenAPIHono<GatewayEnv>,
  { mirror, metrics, isOwnRevoked, database, room }: AppDeps,
): void {
  const alive = createRoute({
    method: 'get',
    path: '/healthz',
    summary: 'Answers as long as the process does.',
    responses: {
      200: {
        description: 'Alive.',
        content: { [JSON_TYPE]: { schema: z.object({ status: z.literal('ok') }) } },
      },
    },
  });
  app.openapi(alive, c => c.json({ status: 'ok' as const }, 200));

  const ready = createRoute({
    method: 'get',
    path: '/readyz',
    summary: 'Whether a complete, verified set of the repository is served, and reports are taken.',
    responses: {
      200: {
        description: 'Ready.',
        content: { [JSON_TYPE]: { schema: z.object({ status: z.literal('ready') }) } },
      },
      503: problem('Not ready; the detail says why.'),
    },
  });
  app.openapi(ready, async c => {
    if (isOwnRevoked()) throw ownRevoked();
    const isFull = (await room.freeBytes()) === 0;
    const wrong =
      database.trouble ?? database.damage ?? (isFull ? diskFull('gateway', room.path) : undefined);
    if (wrong) throw new SitecastError('unreachable', 'SITECAST_NOT_READY', wrong.message);
    if (mirror.isComplete) return c.json({ status: 'ready' as const }, 200);
    const why = mirror.current
      ? 'files of the mirrored repository are missing, and fetched again'
      : 'this gateway has not mirrored the repository yet';
    throw new SitecastError('unreachable', 'SITECAST_NOT_READY', why);
  });

  const scrape = createRoute({
    method: 'get',
    path: '/metrics',
    summary: 'Metrics for Prometheus.',
    responses: { 200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } } },
  });
  app.openapi(scrape, async c => c.text(await metrics.text(), 200, { 'content-type': metrics.contentType }));
}
