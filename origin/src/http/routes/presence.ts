import { createRoute } from '@hono/zod-openapi';
import {
  fleetPresenceSchema,
  MAX_PRESENCE_BODY_BYTES,
  PRESENCE_PATH,
  presenceAnswerSchema,
  presenceSchema,
} from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { Member } from '../../fleet/member.ts';
import { firstOfEach, type ShownTurn, shownTurn } from '../../fleet/presence-view.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireMediaType, requireRole } from '../guards.ts';
import { bearer, JSON_TYPE, jsonAnswer, jsonBody, signature, withProblems } from '../schemas.ts';

/** Silent gateways, and turns, in one answer. */
const MAX_SHOWN = 100;

/** Which devices gateways hear: gateways report it, operators read it. */
export function presenceRoutes(app: OriginApp, deps: AppDeps): void {
  tellRoute(app, deps);
  showRoute(app, deps);
}

function tellRoute(app: OriginApp, { fleet, signedRequests }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: PRESENCE_PATH,
      summary: 'A gateway says which devices of its site came and went, and who holds a turn.',
      security: signature('member'),
      middleware: [requireMediaType(JSON_TYPE), signedRequests.ofMember(MAX_PRESENCE_BODY_BYTES)],
      request: { body: jsonBody(presenceSchema) },
      responses: withProblems({
        200: jsonAnswer(
          'Whether changes are to follow, or everything from the beginning.',
          presenceAnswerSchema,
        ),
      }),
    }),
    c => {
      const sender = fleet.registry.activeMember(c.get('sender'));
      if (sender?.kind !== 'gateway')
        throw new SitecastError('forbidden', 'SITECAST_GATEWAYS_ONLY', 'this is for gateways alone');
      return c.json(fleet.presence.take(sender, c.req.valid('json')), 200);
    },
  );
}

/** The gateways that hear a device, or the devices that a gateway hears. */
export function hearingOf(
  fleet: AppDeps['fleet'],
  member: Member,
  nowMs: number,
): { heardBy?: string[]; hears?: { devices: number; turns: ShownTurn[] } } {
  const { presence } = fleet;
  if (member.kind === 'device') {
    const heardBy = presence.heardBy(member);
    return heardBy.length > 0 ? { heardBy } : {};
  }
  const devices = presence.countOf(member);
  const turns = presence
    .turns(({ gateway }) => gateway === member.id)
    .map(turn => shownTurn(turn, fleet, nowMs));
  return devices === undefined ? {} : { hears: { devices, turns } };
}

function showRoute(app: OriginApp, { tokens, fleet, now }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/presence',
      summary: `Gateways that are silent, and the turns held longest: at most ${MAX_SHOWN} of each, and a few turns of one gateway.`,
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      responses: withProblems({
        200: jsonAnswer('As it is now.', fleetPresenceSchema),
      }),
    }),
    c => {
      const { counts, silent, ailing } = fleet.presence.gateways();
      const turns = firstOfEach(fleet.presence.turns(), MAX_SHOWN);
      return c.json(
        {
          gateways: counts,
          silent: silent.slice(0, MAX_SHOWN).map(({ id, name, site }) => {
            const seenMs = fleet.registry.seenMs(id);
            return {
              id,
              ...(name !== undefined && { name }),
              site,
              ...(seenMs && { lastHeardAt: new Date(seenMs).toISOString() }),
            };
          }),
          ailing: ailing.slice(0, MAX_SHOWN).map(member => ({
            id: member.id,
            ...(member.name !== undefined && { name: member.name }),
            site: member.site,
            ...fleet.presence.conditionOf(member),
          })),
          turns: turns.map(turn => shownTurn(turn, fleet, now())),
        },
        200,
      );
    },
  );
}
