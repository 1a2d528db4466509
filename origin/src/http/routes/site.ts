import { createRoute, z } from '@hono/zod-openapi';
import {
  acknowledgementAnswerSchema,
  assignmentAnswerSchema,
  enrolmentRequestSchema,
  MAX_SITE_BODY_BYTES,
  pendingAnswerSchema,
  progressRequestSchema,
  progressSchema,
  reportsAnswerSchema,
  reportsRequestSchema,
} from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { type DeviceState, idSchema, OVER_BUDGET, reportsOverBudget } from '@sitecast/shared/fleet';
import type { Member } from '../../fleet/member.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireMediaType } from '../guards.ts';
import { JSON_TYPE, jsonAnswer, jsonBody, problem, signature, withProblems } from '../schemas.ts';

const idParam = z.object({ id: idSchema });

/** States that progress can be reported for. */
const RUNNING_STATES: ReadonlySet<DeviceState> = new Set([
  'checking',
  'downloading',
  'verifying',
  'installing',
  'rebooting',
  'confirming',
  'waiting',
]);

/** The site API of devices and gateways, signed by their own keys. Gateways relay it. */
export function siteRoutes(app: OriginApp, deps: AppDeps): void {
  enrolmentRoutes(app, deps);
  reportRoute(app, deps);
  acknowledgementRoute(app, deps);
  progressRoute(app, deps);
}

function enrolmentRoutes(app: OriginApp, { fleet, signedRequests }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/site/v1/enrolments',
      summary: 'A newcomer asks to be known; a gateway may bring its request.',
      security: signature('anybody'),
      middleware: [requireMediaType(JSON_TYPE), signedRequests.ofAnybody(MAX_SITE_BODY_BYTES)],
      request: {
        body: jsonBody(enrolmentRequestSchema),
      },
      responses: withProblems({
        200: jsonAnswer('It is in.', assignmentAnswerSchema),
        202: jsonAnswer('It waits for an operator.', pendingAnswerSchema),
      }),
    }),
    async c => {
      const sender = fleet.registry.activeMember(c.get('sender'));
      const relay = sender?.kind === 'gateway' ? sender : undefined;
      const member = await fleet.enrolments.enrol(c.req.valid('json').envelope, {
        senderId: c.get('sender'),
        relay,
      });
      if (!member) return c.json({ state: 'pending' as const }, 202);
      return c.json({ assignment: await fleet.statements.assignment(member) }, 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/site/v1/assignments/{id}',
      summary: "The origin's signed statement what a device or gateway is.",
      request: { params: idParam },
      responses: {
        200: jsonAnswer('The assignment.', assignmentAnswerSchema),
        400: problem('The id is malformed.'),
        404: problem('It is not enrolled.'),
      },
    }),
    async c => {
      const member = fleet.registry.member(c.req.valid('param').id);
      if (!member) throw unknownMember();
      const current = await fleet.renewals.renewed(member);
      return c.json({ assignment: await fleet.statements.assignment(current) }, 200);
    },
  );
}

function reportRoute(app: OriginApp, { fleet, signedRequests }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/site/v1/reports',
      summary:
        "A device's reports, or those of many devices from their gateway. When it answers, they are durable.",
      security: signature('member'),
      middleware: [requireMediaType(JSON_TYPE), signedRequests.ofMember(MAX_SITE_BODY_BYTES)],
      request: {
        body: jsonBody(reportsRequestSchema),
      },
      responses: withProblems({
        200: jsonAnswer(
          'How far each chain reaches now, and which reports were refused.',
          reportsAnswerSchema,
        ),
      }),
    }),
    async c => {
      const sender = requireSender(fleet.registry.activeMember(c.get('sender')));
      const { reports } = c.req.valid('json');
      const { chains, rejected } = await fleet.intake.take(sender, reports);
      const [first] = rejected;
      // Only a device gets this error. A gateway sends reports of many devices, and the other reports must not wait.
      const isAllLater =
        rejected.length === reports.length && rejected.every(({ code }) => code === OVER_BUDGET);
      if (sender.kind === 'device' && isAllLater) throw reportsOverBudget(first?.retryAfterS ?? 0);
      const acknowledgements = await Promise.all(
        chains.map(({ id, epoch, seq }) => fleet.statements.acknowledgement(id, epoch, seq)),
      );
      return c.json({ acknowledgements, rejected }, 200);
    },
  );
}

function acknowledgementRoute(app: OriginApp, { fleet }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/site/v1/acknowledgements/{id}',
      summary: "How far a device's current chain of reports has come.",
      request: { params: idParam },
      responses: {
        200: jsonAnswer('The acknowledgement.', acknowledgementAnswerSchema),
        400: problem('The id is malformed.'),
        404: problem('No report of it has come.'),
      },
    }),
    async c => {
      const acknowledgement = await fleet.statements.newestAcknowledgement(c.req.valid('param').id);
      return c.json({ acknowledgement }, 200);
    },
  );
}

function progressRoute(app: OriginApp, { fleet, signedRequests, now }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/site/v1/progress',
      summary: 'How far downloads have got: for people to look at, kept in memory alone.',
      security: signature('member'),
      middleware: [requireMediaType(JSON_TYPE), signedRequests.ofMember(MAX_SITE_BODY_BYTES)],
      request: {
        body: jsonBody(progressRequestSchema),
      },
      responses: withProblems({
        202: jsonAnswer('Seen.', z.object({})),
      }),
    }),
    c => {
      const sender = requireSender(fleet.registry.activeMember(c.get('sender')));
      for (const value of c.req.valid('json').progress) {
        const { data: progress } = progressSchema.safeParse(value);
        if (!progress) continue;
        const device = fleet.registry.activeMember(progress.id);
        const isOwn = device?.id === sender.id;
        const isItsToSay = isOwn || (sender.kind === 'gateway' && device?.site === sender.site);
        // Only reports, which the device signs, tell how an update ended.
        if (isItsToSay && RUNNING_STATES.has(progress.state)) fleet.progress.put(progress, now());
      }
      return c.json({}, 202);
    },
  );
}

function requireSender(member: Member | undefined): Member {
  if (member) return member;
  // The sender was revoked after its signature was checked.
  throw new SitecastError('forbidden', 'SITECAST_DEVICE_REVOKED', 'the sender was revoked');
}

function unknownMember(): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_DEVICE_UNKNOWN',
    'no device or gateway with this id is enrolled',
  );
}
