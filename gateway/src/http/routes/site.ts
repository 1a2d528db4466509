import { createRoute, type OpenAPIHono, type z } from '@hono/zod-openapi';
import {
  gatewayIdentitySchema,
  gatewayProgressRequestSchema,
  gatewayReportsAnswerSchema,
  leaseAnswerSchema,
  leaseRequestSchema,
  namedPeersSchema,
  peerNoticeSchema,
  pendingAnswerSchema,
  relayedAcknowledgementAnswerSchema,
  relayedAssignmentAnswerSchema,
  relayedEnrolmentRequestSchema,
  reportsRequestSchema,
  siteWaySchema,
} from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { isId } from '@sitecast/shared/identity';
import { ASKER_HEADER, FORWARDED_HEADER, type GatewayEnv } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { notYours } from '../../reports/report-receiver.ts';
import { deltaParams, idParams, JSON_TYPE, withProblems } from '../schemas.ts';
import { addressOf, signedJson } from '../signed.ts';

const json = <T extends z.ZodType>(description: string, schema: T) => ({
  description,
  content: { [JSON_TYPE]: { schema } },
});
const body = <T extends z.ZodType>(schema: T) => ({
  body: { required: true, content: { [JSON_TYPE]: { schema } } },
});

/** What devices of the site say to the origin, and the origin to them. */
export function siteRoutes(app: OpenAPIHono<GatewayEnv>, deps: AppDeps): void {
  // One for all routes, so that a request cannot be replayed at another.
  const middleware = [signedJson(deps)];
  enrolmentRoute(app, deps, middleware);
  reportRoutes(app, deps, middleware);
  leaseRoute(app, deps, middleware);
  peerRoute(app, deps, middleware);
  wayRoute(app, deps);
  documentRoutes(app, deps);
  gatewayRoute(app, deps);
}

type Middleware = ReturnType<typeof signedJson>[];

function enrolmentRoute(
  app: OpenAPIHono<GatewayEnv>,
  { enrolments, hosts }: AppDeps,
  middleware: Middleware,
): void {
  const route = createRoute({
    method: 'post',
    path: '/site/v1/enrolments',
    summary: "A device's request to be known, passed on to the origin. Signed (RFC 9421) by the device.",
    middleware,
    request: body(relayedEnrolmentRequestSchema),
    responses: withProblems({
      200: json('Let in.', relayedAssignmentAnswerSchema),
      202: json('An operator is to accept it.', pendingAnswerSchema),
    }),
  });
  app.openapi(route, async c => {
    const { envelope } = c.req.valid('json');
    const answer = await enrolments.relay(c.get('sender'), envelope, addressOf(c, hosts));
    if ('assignment' in answer) return c.json({ assignment: answer.assignment }, 200);
    if ('problem' in answer) throw passedOn(answer.status, answer.problem);
    return c.json({ state: 'pending' as const }, 202);
  });
}

const KIND_OF_STATUS = new Map([
  [401, 'unauthenticated'],
  [403, 'forbidden'],
  [404, 'notFound'],
  [409, 'conflict'],
  [413, 'tooLarge'],
  [422, 'untrusted'],
  [429, 'unreachable'],
] as const);

function passedOn(status: number, { code, detail }: { code: string; detail: string }): SitecastError {
  const kinds: ReadonlyMap<number, SitecastError['kind']> = KIND_OF_STATUS;
  const stable = `SITECAST_${code.replace(/^SITECAST_/, '')}` as const;
  return new SitecastError(kinds.get(status) ?? 'badInput', stable, detail);
}

function reportRoutes(app: OpenAPIHono<GatewayEnv>, deps: AppDeps, middleware: Middleware): void {
  const reports = createRoute({
    method: 'post',
    path: '/site/v1/reports',
    summary: "A device's own reports: once answered they survive a power cut here, and go on to the origin.",
    middleware,
    request: body(reportsRequestSchema),
    responses: withProblems({
      202: json(
        'Taken in, but for those that are refused; with what the origin has acknowledged so far, if anything.',
        gatewayReportsAnswerSchema,
      ),
    }),
  });
  app.openapi(reports, async c => {
    const { reports: envelopes } = c.req.valid('json');
    c.get('charge')(envelopes.length);
    const { acknowledgement, rejected } = await deps.reports.accept(
      c.get('sender'),
      envelopes,
      addressOf(c, deps.hosts),
    );
    const answer = { ...(acknowledgement && { acknowledgement }), ...(rejected.length > 0 && { rejected }) };
    return c.json(answer, 202);
  });

  const progress = createRoute({
    method: 'post',
    path: '/site/v1/progress',
    summary: 'How far a device is; may get lost.',
    middleware,
    request: body(gatewayProgressRequestSchema),
    responses: withProblems({ 202: { description: 'Heard.' } }),
  });
  app.openapi(progress, c => {
    const sender = c.get('sender');
    const { progress } = c.req.valid('json');
    const other = progress.find(({ id }) => id !== sender);
    if (other) throw notYours(other.id);
    for (const one of progress) deps.progress.note(one);
    return c.body(null, 202);
  });
}

function leaseRoute(app: OpenAPIHono<GatewayEnv>, { leases }: AppDeps, middleware: Middleware): void {
  const route = createRoute({
    method: 'post',
    path: '/site/v1/leases',
    summary: 'Leave for a device to be down, so that not all of a site are at once.',
    middleware,
    request: body(leaseRequestSchema),
    responses: withProblems({
      200: json('Granted or not; when to ask again.', leaseAnswerSchema),
    }),
  });
  app.openapi(route, async c => {
    const { id, rollout, action } = c.req.valid('json');
    if (id !== c.get('sender')) throw notYours(id);
    const { untilMs, heldBy, ...answer } = await leases.handle(id, rollout, action);
    return c.json(
      {
        ...answer,
        ...(untilMs !== undefined && { until: iso(untilMs) }),
        ...(heldBy && {
          heldBy: heldBy.map(({ id: holder, name, untilMs: heldMs }) => ({
            id: holder,
            ...(name !== undefined && { name }),
            until: iso(heldMs),
          })),
        }),
      },
      200,
    );
  });
}

const iso = (ms: number): string => new Date(ms).toISOString();

function peerRoute(app: OpenAPIHono<GatewayEnv>, { tracker, hosts }: AppDeps, middleware: Middleware): void {
  const route = createRoute({
    method: 'post',
    path: '/site/v1/peers',
    summary: 'What a device holds or fetches, and where it is reached; who else does.',
    middleware,
    request: body(peerNoticeSchema),
    responses: withProblems({ 200: json('Others that may have chunks for it.', namedPeersSchema) }),
  });
  app.openapi(route, async c =>
    c.json({ peers: await tracker.announce(c.get('sender'), c.req.valid('json'), addressOf(c, hosts)) }, 200),
  );
}

function wayRoute(app: OpenAPIHono<GatewayEnv>, { siteWays }: AppDeps): void {
  const route = createRoute({
    method: 'get',
    path: '/site/v1/ways/{product}/{from}/{to}',
    summary:
      'How devices that run one release are to come to another one, so that it costs the WAN of the site least.',
    request: { params: deltaParams },
    responses: withProblems({ 200: json('By deltas, unless chunks cost less.', siteWaySchema) }),
  });
  app.openapi(route, async c => c.json({ way: await siteWays.wayOf(c.req.valid('param')) }, 200));
}

function documentRoutes(
  app: OpenAPIHono<GatewayEnv>,
  { assignments, acknowledgements, hosts }: AppDeps,
): void {
  const assignment = createRoute({
    method: 'get',
    path: '/site/v1/assignments/{id}',
    summary: 'What a device is, as the origin signed it.',
    request: { params: idParams },
    responses: withProblems({ 200: json('The newest known.', relayedAssignmentAnswerSchema) }),
  });
  app.openapi(assignment, async c => {
    const { id } = c.req.valid('param');
    const isForwarded = c.req.header(FORWARDED_HEADER) !== undefined;
    const address = addressOf(c, hosts);
    const found = isId(id) ? await assignments.get(id, { isForwarded, address }) : undefined;
    if (found) return c.json({ assignment: found }, 200);
    throw new SitecastError('notFound', 'SITECAST_NO_ASSIGNMENT', 'nothing is assigned under this id');
  });

  const acknowledgement = createRoute({
    method: 'get',
    path: '/site/v1/acknowledgements/{id}',
    summary: 'Up to which report the origin has those of a device, as it signed it.',
    request: { params: idParams },
    responses: withProblems({ 200: json('The newest known.', relayedAcknowledgementAnswerSchema) }),
  });
  app.openapi(acknowledgement, async c => {
    const { id } = c.req.valid('param');
    const isForwarded = c.req.header(FORWARDED_HEADER) !== undefined;
    const address = addressOf(c, hosts);
    const found = isId(id) ? await acknowledgements.get(id, { isForwarded, address }) : undefined;
    if (found) return c.json({ acknowledgement: found }, 200);
    throw new SitecastError('notFound', 'SITECAST_NO_ACKNOWLEDGEMENT', 'nothing is acknowledged for this id');
  });
}

/** How the gateways of a site know which of them live. */
function gatewayRoute(app: OpenAPIHono<GatewayEnv>, { self, onGatewaySeen }: AppDeps): void {
  const who = createRoute({
    method: 'get',
    path: '/site/v1/gateway',
    summary: 'Which gateway answers here, and of which site: asked by other gateways every two seconds.',
    responses: {
      200: {
        description: 'Its id, and its site once it knows it.',
        content: { [JSON_TYPE]: { schema: gatewayIdentitySchema } },
      },
    },
  });
  app.openapi(who, c => {
    const asker = c.req.header(ASKER_HEADER) ?? '';
    if (isId(asker)) onGatewaySeen(asker);
    return c.json(self(), 200);
  });
}
