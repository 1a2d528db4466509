import { createRoute, z } from '@hono/zod-openapi';
import { SitecastError } from '@sitecast/shared/errors';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { jsonAnswer, problem } from '../schemas.ts';

const readySchema = z.object({
  status: z.literal('ready'),
  initialised: z.boolean(),
  /** Damaged or lost parts. The rest is served. */
  damage: z.object({ chunks: z.int(), files: z.int() }),
});

/** For load balancers and Prometheus. */
export function healthRoutes(app: OriginApp, { repository, readiness, metrics }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/healthz',
      summary: 'Answers as long as the process does.',
      responses: {
        200: jsonAnswer('Alive.', z.object({ status: z.literal('ok') })),
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
        200: jsonAnswer('Ready.', readySchema),
        503: problem('Not ready; the detail says why.'),
      },
    }),
    async c => {
      const why = await readiness.check();
      if (why) {
        const data = { code: why.code };
        // Anyone may ask. Where the data lie concerns operators, who find it in the log.
        const message = why.code === 'SITECAST_NO_SPACE' ? 'the disk of the origin is full' : why.message;
        throw new SitecastError('unreachable', 'SITECAST_NOT_READY', message, { data });
      }
      const { chunks, files } = repository.damage;
      const damage = { chunks, files };
      return c.json(
        { status: 'ready' as const, initialised: repository.committed !== undefined, damage },
        200,
      );
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
