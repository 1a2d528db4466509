import { createRoute, z } from '@hono/zod-openapi';
import {
  OPERATOR_ACTS,
  type OperatorAct,
  ROLLOUT_DEVICE_STATES,
  rolloutActSchema,
  rolloutDryRunSchema,
  rolloutListSchema,
  rolloutPreviewSchema,
  rolloutSchema,
  rolloutSpecSchema,
  rolloutStatusSchema,
  type RolloutView,
  startedRolloutSchema,
} from '@sitecast/shared/api';
import { idSchema, type Rollout, ROLLOUT_STATES, rolloutIdSchema } from '@sitecast/shared/fleet';
import { nameSchema, versionSchema } from '@sitecast/shared/release';
import { firstOfEach, shownTurn } from '../../fleet/presence-view.ts';
import { stagesAhead } from '../../rollouts/prepare.ts';
import { isUnderWay, type RolloutRecord } from '../../rollouts/record.ts';
import { demandProduct } from '../../rollouts/releases.ts';
import type { StatusQuery } from '../../rollouts/status.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { boundedJson, requireRole, takeJson } from '../guards.ts';
import { bearer, JSON_TYPE, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';

const MAX_ROLLOUT_BODY_BYTES = 1024 * 1024;
const MAX_ACT_BODY_BYTES = 4096;
const MAX_PAGE = 1000;
/** The devices that a dry run names for each stage. */
const MAX_NAMED_DEVICES = 1000;

/** The leases that a rollout's status names. */
const MAX_SHOWN_TURNS = 20;

const pageQuery = z.object({
  cursor: idSchema.optional(),
  limit: z.coerce.number().int().min(0).max(MAX_PAGE).default(MAX_PAGE),
  state: z.enum(ROLLOUT_DEVICE_STATES).optional(),
});
const listQuery = z.object({ product: nameSchema.optional(), state: z.enum(ROLLOUT_STATES).optional() });
const idParam = z.object({ id: rolloutIdSchema });
const ONLY_ROLLBACK = 'only a rollback leads to a release';
const previewQuery = z
  .object({
    act: z.enum(OPERATOR_ACTS),
    to: versionSchema.optional(),
    // The `sitecast` of 0.1.0 doesn't send it: its user learns of a refusal after the confirmation.
    acknowledge: z.enum(['true', 'false']).default('true'),
  })
  .refine(({ act, to }) => to === undefined || act === 'rollback', ONLY_ROLLBACK);
/** Rollouts: which devices run which release, and how far they are. */
export function rolloutRoutes(app: OriginApp, deps: AppDeps): void {
  startRoute(app, deps);
  listRoute(app, deps);
  statusRoute(app, deps);
  previewRoute(app, deps);
  actRoutes(app, deps);
}

const nameOf = ({ id, release }: Rollout) => ({ rollout: id, version: release.version });

async function fullStatus(
  { rollouts, cohortStore, fleet }: AppDeps,
  record: RolloutRecord,
  page: StatusQuery,
) {
  const { presence, progress } = fleet;
  const { deciding, ...status } = await cohortStore.statusPage(record, page, { presence, progress });
  const held = fleet.presence.turns(({ product }) => product === record.product);
  const turns = firstOfEach(held, MAX_SHOWN_TURNS).map(turn => shownTurn(turn, fleet, page.nowMs));
  const isReturning = record.rollout.state === 'rollingBack';
  const back = isReturning ? await cohortStore.rollbackProgress(record.rollout.id) : undefined;
  return {
    ...describeRollout(record),
    ...status,
    ...(deciding && rollouts.canSign && { deciding }),
    ...(back && { back }),
    acts: await rollouts.acts(record),
    ...(isUnderWay(record) && turns.length > 0 && { turns }),
  };
}

function startRoute(app: OriginApp, deps: AppDeps): void {
  const { tokens, rollouts, fleet, bodies, now } = deps;
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/rollouts',
      summary:
        'Starts a rollout: signed and published when it answers. Or, as a dry run, says what it would reach.',
      security: bearer('operator'),
      middleware: takeJson({ tokens, bodies }, 'operator', MAX_ROLLOUT_BODY_BYTES),
      request: { body: jsonBody(rolloutSpecSchema) },
      responses: withProblems({
        200: jsonAnswer('What each stage would reach.', rolloutDryRunSchema),
        201: jsonAnswer('The rollout, and how many devices it reaches now.', startedRolloutSchema),
        404: {
          description:
            'No such product or release is published; or nobody has a site, hardware or tag that is named.',
        },
      }),
    }),
    async c => {
      const body = c.req.valid('json');
      if (body.dryRun) {
        const prepared = await rollouts.dryRun(body);
        const { plan } = prepared.controller;
        const stages = stagesAhead(prepared).map(({ ids }, at) => ({
          basisPoints: plan.stages[at]?.basisPoints ?? 0,
          count: ids.length,
          devices: ids.slice(0, MAX_NAMED_DEVICES),
        }));
        const { rollout, candidates, blockedBy, superseded, failedBefore } = prepared;
        const blocked = blockedBy && { ...nameOf(blockedBy), state: blockedBy.state };
        const names = fleet.registry.namesOf(stages.flatMap(({ devices }) => devices));
        const supersedes = superseded.map(nameOf);
        const told = { id: rollout.id, total: candidates.length, plan, stages, names, supersedes };
        const { deltasBy } = rollout;
        const others = {
          ...(blocked && { blockedBy: blocked }),
          ...(deltasBy !== undefined && { deltasBy }),
          ...(failedBefore > 0 && { failedBefore }),
        };
        return c.json({ ...told, ...others }, 200);
      }
      const { record, superseded } = await rollouts.start(body, c.get('token').name);
      const status = await fullStatus(deps, record, { limit: 0, nowMs: now() });
      return c.json({ ...status, supersedes: superseded.map(nameOf) }, 201);
    },
  );
}

function listRoute(app: OriginApp, { tokens, rollouts, repository }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/rollouts',
      summary: 'All rollouts, newest first.',
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { query: listQuery },
      responses: withProblems({
        200: jsonAnswer('The rollouts.', rolloutListSchema),
        404: { description: 'No such product is published, and it has no rollout.' },
      }),
    }),
    c => {
      const { product, state } = c.req.valid('query');
      const found = rollouts
        .list()
        .filter(
          record =>
            (product === undefined || record.product === product) &&
            (state === undefined || record.rollout.state === state),
        );
      // A typing error isn't a product without rollouts.
      if (product !== undefined && found.length === 0) demandProduct(repository, product);
      return c.json({ rollouts: found.map(describeRollout) }, 200);
    },
  );
}

function statusRoute(app: OriginApp, deps: AppDeps): void {
  const { tokens, rollouts, now } = deps;
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/rollouts/{id}',
      summary: 'A rollout, and how far each of its devices has got.',
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { params: idParam, query: pageQuery },
      responses: withProblems({
        200: jsonAnswer('The rollout.', rolloutStatusSchema),
        404: { description: 'There is no such one.' },
      }),
    }),
    async c => {
      const record = rollouts.require(c.req.valid('param').id);
      const { cursor, limit, state } = c.req.valid('query');
      return c.json(await fullStatus(deps, record, { after: cursor, limit, state, nowMs: now() }), 200);
    },
  );
}

function previewRoute(app: OriginApp, { tokens, rollouts }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/rollouts/{id}/preview',
      summary:
        'How many devices an act would touch, if it were done now. What would be refused then is refused here.',
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { params: idParam, query: previewQuery },
      responses: withProblems({
        200: jsonAnswer('What it would do.', rolloutPreviewSchema),
        404: { description: 'There is no such one.' },
      }),
    }),
    async c => {
      const { act, to, acknowledge } = c.req.valid('query');
      const request = { act, isAcknowledged: acknowledge === 'true' };
      return c.json(await rollouts.preview(c.req.valid('param').id, request, to), 200);
    },
  );
}

const SUMMARIES: Record<OperatorAct, string> = {
  pause: 'Pauses a rollout: devices that have not activated it yet wait.',
  resume: 'Goes on with a paused rollout. After an automatic pause the failures are to be acknowledged.',
  abort: 'Ends a rollout: devices that have not activated it yet leave it alone.',
  rollback:
    'Sends devices back to the release they came from; with `to`, to that one. Also after the rollout has ended.',
  advance: 'Begins the next stage now. With `target`, that one and none after it, however often it is said.',
  retry: 'Raises the attempt number: devices that failed try again. With `target`, to that number.',
  complete: 'Ends a rollout as good: its release is what latecomers get.',
};

function actRoutes(app: OriginApp, { tokens, rollouts, bodies }: AppDeps): void {
  for (const act of OPERATOR_ACTS) {
    const schema = rolloutActSchema.refine(({ to }) => to === undefined || act === 'rollback', ONLY_ROLLBACK);
    app.openapi(
      createRoute({
        method: 'post',
        path: `/api/v1/rollouts/{id}/${act}`,
        summary: SUMMARIES[act],
        security: bearer('operator'),
        middleware: [requireRole(tokens, 'operator'), boundedJson(bodies, MAX_ACT_BODY_BYTES)],
        request: {
          params: idParam,
          body: { required: false, content: { [JSON_TYPE]: { schema } } },
        },
        responses: withProblems({
          200: jsonAnswer('As it is now.', rolloutSchema),
          404: { description: 'There is no such one.' },
        }),
      }),
      async c => {
        const { acknowledge, target, to } = c.req.valid('json');
        const request = { act, by: c.get('token').name, isAcknowledged: acknowledge, target };
        return c.json(describeRollout(await rollouts.operate(c.req.valid('param').id, request, to)), 200);
      },
    );
  }
}

function describeRollout(record: RolloutRecord): RolloutView {
  const { product, rollout, startedBy, changes, controller } = record;
  const { id, release, state, match, attempt, createdAt, window, download, notBefore } = rollout;
  const { counter, version, manifestSha256 } = release;
  const { hardware, sites, tags, fromCounter } = match;
  const { plan, stage, stageStartedAt, settledAt, stop, rollbackTo } = controller;
  return {
    id,
    product,
    release: { counter, version, manifestSha256 },
    state,
    match: {
      ...(hardware && { hardware }),
      ...(sites && { sites }),
      ...(tags && { tags }),
      ...(fromCounter && { fromCounter }),
    },
    attempt,
    createdAt,
    startedBy,
    plan,
    stage,
    stageStartedAt,
    ...(settledAt !== undefined && { settledAt }),
    ...(stop && { stop }),
    ...(rollbackTo && { rollbackTo }),
    ...(window !== undefined && { window }),
    ...(download !== undefined && { download }),
    ...(notBefore !== undefined && { notBefore }),
    ...(rollout.deltasBy !== undefined && { deltasBy: rollout.deltasBy }),
    offlineForMs: rollout.offlineForMs,
    maxDownBasisPoints: rollout.maxDownBasisPoints,
    ...(rollout.allowWithoutGateway !== undefined && { allowWithoutGateway: rollout.allowWithoutGateway }),
    changes,
  };
}
