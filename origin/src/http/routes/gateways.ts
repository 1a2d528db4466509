import { createRoute } from '@hono/zod-openapi';
import { gatewayAddressesSchema, knownGatewaysSchema, MAX_SITE_BODY_BYTES } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireMediaType } from '../guards.ts';
import { JSON_TYPE, jsonAnswer, jsonBody, signature, withProblems } from '../schemas.ts';

/** How gateways find each other. */
export function gatewayRoutes(app: OriginApp, { fleet, signedRequests, now }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/site/v1/gateways',
      summary: 'A gateway says where others find it, and hears of others: of its site first.',
      security: signature('member'),
      middleware: [requireMediaType(JSON_TYPE), signedRequests.ofMember(MAX_SITE_BODY_BYTES)],
      request: {
        body: jsonBody(gatewayAddressesSchema),
      },
      responses: withProblems({
        200: jsonAnswer('Where others say that they are.', knownGatewaysSchema),
      }),
    }),
    c => {
      const sender = fleet.registry.activeMember(c.get('sender'));
      if (sender?.kind !== 'gateway')
        throw new SitecastError('forbidden', 'SITECAST_GATEWAYS_ONLY', 'this is for gateways alone');
      fleet.gateways.put(sender, c.req.valid('json'), now());
      return c.json(fleet.gateways.knownTo(sender, now()), 200);
    },
  );
}
