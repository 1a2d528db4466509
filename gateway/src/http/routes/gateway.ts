import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { idSchema, siteSchema } from '@sitecast/shared/fleet';
import { isId } from '@sitecast/shared/identity';
import { ASKER_HEADER, type GatewayEnv } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { JSON_TYPE } from '../schemas.ts';

/** How the gateways of a site know that each other live. */
export function gatewayRoutes(app: OpenAPIHono<GatewayEnv>, { self, onGatewaySeen }: AppDeps): void {
  const who = createRoute({
    method: 'get',
    path: '/site/v1/gateway',
    summary: 'Which gateway answers here, and of which site: asked by other gateways every two seconds.',
    responses: {
      200: {
        description: 'Its id, and its site once it knows it.',
        content: { [JSON_TYPE]: { schema: z.object({ id: idSchema, site: siteSchema.optional() }) } },
      },
    },
  });
  app.openapi(who, c => {
    const asker = c.req.header(ASKER_HEADER) ?? '';
    if (isId(asker)) onGatewaySeen(asker);
    return c.json(self(), 200);
  });
}
