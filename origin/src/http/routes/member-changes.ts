import { createRoute } from '@hono/zod-openapi';
import { acceptRequestSchema, changedMemberSchema, memberChangeSchema } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import type { MemberKind } from '../../fleet/member.ts';
import { summaryOf } from '../../fleet/view.ts';
import { unknownNames } from '../../rollouts/match.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole, takeJson } from '../guards.ts';
import { bearer, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';
import { idParam, listOf } from './members.ts';

const MAX_MEMBER_BODY_BYTES = 64 * 1024;

/** Changes of devices and gateways by operators: the same routes for both. */
export function memberChangeRoutes(app: OriginApp, deps: AppDeps): void {
  for (const kind of ['device', 'gateway'] as const) {
    acceptRoute(app, deps, kind);
    changeRoute(app, deps, kind);
    revokeRoute(app, deps, kind);
  }
}

const answersOf = (kind: MemberKind) =>
  withProblems({
    200: jsonAnswer(`The ${kind} as it is now.`, changedMemberSchema),
    404: { description: 'There is no such one.' },
  });

function acceptRoute(app: OriginApp, { tokens, fleet, rollouts, bodies }: AppDeps, kind: MemberKind): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: `/api/v1/${kind}s/{id}/accept`,
      summary: `Lets a ${kind} in that waits.`,
      security: bearer('operator'),
      middleware: takeJson({ tokens, bodies }, 'operator', MAX_MEMBER_BODY_BYTES),
      request: {
        params: idParam,
        body: jsonBody(acceptRequestSchema),
      },
      responses: answersOf(kind),
    }),
    async c => {
      const { id } = c.req.valid('param');
      const { site, name, replace: replaces } = c.req.valid('json');
      const unknown = unknownNames({ site: listOf(site) }, fleet.registry);
      const member = await fleet.enrolments.accept(kind, id, { site, name, replaces }, c.get('token').name);
      if (replaces !== undefined) await publishRevocations(kind, rollouts);
      return c.json({ ...summaryOf(member, fleet), ...(unknown.length > 0 && { unknown }) }, 200);
    },
  );
}

function changeRoute(app: OriginApp, { tokens, fleet, bodies }: AppDeps, kind: MemberKind): void {
  app.openapi(
    createRoute({
      method: 'patch',
      path: `/api/v1/${kind}s/{id}`,
      summary: `Changes a ${kind}'s name, tags (all of them) or site, or lifts its quarantine.`,
      security: bearer('operator'),
      middleware: takeJson({ tokens, bodies }, 'operator', MAX_MEMBER_BODY_BYTES),
      request: {
        params: idParam,
        body: jsonBody(memberChangeSchema),
      },
      responses: answersOf(kind),
    }),
    async c => {
      const { id } = c.req.valid('param');
      const { quarantined, ...change } = c.req.valid('json');
      const by = c.get('token').name;
      const unknown = unknownNames({ site: listOf(change.site) }, fleet.registry);
      const member = await fleet.enrolments.change(kind, id, change, by);
      if (quarantined === false && fleet.registry.status(id)?.quarantinedAt !== undefined) {
        const subject = `${kind}:${id}`;
        await fleet.intake.liftQuarantine(id, { by, action: `${kind}.liftQuarantine`, subject });
      }
      return c.json({ ...summaryOf(member, fleet), ...(unknown.length > 0 && { unknown }) }, 200);
    },
  );
}

function revokeRoute(app: OriginApp, { tokens, fleet, rollouts }: AppDeps, kind: MemberKind): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: `/api/v1/${kind}s/{id}/revoke`,
      summary: `Shuts a ${kind} out for good: here at once, everywhere else with the next metadata.`,
      security: bearer('operator'),
      middleware: [requireRole(tokens, 'operator')],
      request: { params: idParam },
      responses: answersOf(kind),
    }),
    async c => {
      const member = await fleet.enrolments.revoke(kind, c.req.valid('param').id, c.get('token').name);
      await publishRevocations(kind, rollouts);
      return c.json(summaryOf(member, fleet), 200);
    },
  );
}

async function publishRevocations(kind: MemberKind, rollouts: AppDeps['rollouts']): Promise<void> {
  await rollouts.publishRevocations().catch((error: unknown) => {
    throw error instanceof SitecastError ? notToldYet(kind, error) : error;
  });
}

/** The member is revoked although the revocation couldn't be published. The error must say so. */
function notToldYet(
  kind: MemberKind,
  { kind: errorKind, code, message, hint, data }: SitecastError,
): SitecastError {
  const said = `the ${kind} is shut out here for good; gateways and devices don't hear of it yet: ${message}`;
  return new SitecastError(errorKind, code, said, hint === undefined ? { data } : { data, hint });
}
