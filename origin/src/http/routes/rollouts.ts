import { createRoute, z } from '@hono/zod-openapi';
import { DEVICE_STATES, idSchema, rolloutIdSchema, siteSchema, tagsSchema } from '@sitecast/shared/fleet';
import { counterSchema, MAX_HARDWARE, nameSchema, versionSchema } from '@sitecast/shared/release';
import type { RolloutRecord } from '../../rollouts/record.ts';
import { statusOf } from '../../rollouts/view.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { boundedJson, requireMediaType, requireRole } from '../guards.ts';
import { bearer, JSON_TYPE, withProblems } from '../schemas.ts';

const MAX_ROLLOUT_BODY_BYTES = 1024 * 1024;
const MAX_SITES = 10_000;
const MAX_PAGE = 1000;

const ROLLOUT_STATES = ['active', 'paused', 'aborted', 'completed', 'rollingBack'] as const;
const deviceStateSchema = z.enum([...DEVICE_STATES, 'pending']);

const rolloutSchema = z
  .object({
    id: z.string(),
    product: z.string(),
    release: z.object({ counter: z.int(), version: z.string(), manifestSha256: z.string() }),
    state: z.enum(ROLLOUT_STATES),
    match: z.object({
      hardware: z.array(z.string()).optional(),
      sites: z.array(z.string()).optional(),
      tags: z.record(z.string(), z.string()).optional(),
    }),
    attempt: z.int(),
    createdAt: z.string(),
    startedBy: z.string(),
    changes: z.array(z.object({ at: z.string(), by: z.string(), state: z.string() })),
  })
  .openapi('Rollout');

const statusSchema = rolloutSchema
  .extend({
    counts: z.partialRecord(deviceStateSchema, z.int()),
    total: z.int(),
    devices: z.array(
      z.object({
        id: z.string(),
        site: z.string(),
        state: deviceStateSchema,
        at: z.string().optional(),
        reason: z.object({ code: z.string(), message: z.string() }).optional(),
        progress: z.object({ doneBytes: z.int(), totalBytes: z.int() }).optional(),
      }),
    ),
    nextCursor: z.string().optional(),
  })
  .openapi('RolloutStatus');

const newRolloutSchema = z
  .strictObject({
    product: nameSchema,
    version: versionSchema.optional(),
    counter: counterSchema.optional(),
    match: z
      .strictObject({
        hardware: z.array(nameSchema).min(1).max(MAX_HARDWARE).optional(),
        sites: z.array(siteSchema).min(1).max(MAX_SITES).optional(),
        tags: tagsSchema.optional(),
      })
      .default({}),
    allAtOnce: z.boolean().default(false),
    allowDowngrade: z.boolean().default(false),
  })
  .refine(
    ({ version, counter }) => (version === undefined) !== (counter === undefined),
    'either version or counter',
  )
  .openapi('NewRollout');

const pageQuery = z.object({
  cursor: idSchema.optional(),
  limit: z.coerce.number().int().min(0).max(MAX_PAGE).default(MAX_PAGE),
  state: deviceStateSchema.optional(),
});
const listQuery = z.object({ product: nameSchema.optional(), state: z.enum(ROLLOUT_STATES).optional() });
const idParam = z.object({ id: rolloutIdSchema });

/** Rollouts: which devices are to run which release, and how far they have got. */
export function rolloutRoutes(app: OriginApp, deps: AppDeps): void {
  startRoute(app, deps);
  readingRoutes(app, deps);
  endingRoutes(app, deps);
}

function startRoute(app: OriginApp, { tokens, rollouts, fleet, bodies, now }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/rollouts',
      summary: 'Starts a rollout: signed and published when it answers.',
      security: bearer('operator'),
      middleware: [
        requireRole(tokens, 'operator'),
        requireMediaType(JSON_TYPE),
        boundedJson(bodies, MAX_ROLLOUT_BODY_BYTES),
      ],
      request: { body: { required: true, content: { [JSON_TYPE]: { schema: newRolloutSchema } } } },
      responses: withProblems({
        201: {
          description: 'The rollout, and how many devices it reaches now.',
          content: { [JSON_TYPE]: { schema: statusSchema } },
        },
        404: { description: 'No such product or release is published.' },
      }),
    }),
    async c => {
      const { product, version, counter, match, allAtOnce, allowDowngrade } = c.req.valid('json');
      const record = await rollouts.start(
        {
          product,
          release: version === undefined ? { counter: counter ?? 0 } : { version },
          match,
          isAllAtOnce: allAtOnce,
          mayDowngrade: allowDowngrade,
        },
        c.get('token').name,
      );
      const outcomes = await rollouts.tallies.outcomes(record.rollout.id);
      const query = { limit: 0, nowMs: now() };
      return c.json({ ...describe(record), ...statusOf(record, outcomes, fleet, query) }, 201);
    },
  );
}

function readingRoutes(app: OriginApp, { tokens, rollouts, fleet, now }: AppDeps): void {
  const viewer = requireRole(tokens, 'viewer');

  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/rollouts',
      summary: 'All rollouts, newest first.',
      security: bearer('viewer'),
      middleware: [viewer],
      request: { query: listQuery },
      responses: withProblems({
        200: {
          description: 'The rollouts.',
          content: { [JSON_TYPE]: { schema: z.object({ rollouts: z.array(rolloutSchema) }) } },
        },
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
      return c.json({ rollouts: found.map(describe) }, 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/rollouts/{id}',
      summary: 'A rollout, and how far each of its devices has got.',
      security: bearer('viewer'),
      middleware: [viewer],
      request: { params: idParam, query: pageQuery },
      responses: withProblems({
        200: { description: 'The rollout.', content: { [JSON_TYPE]: { schema: statusSchema } } },
        404: { description: 'There is no such one.' },
      }),
    }),
    async c => {
      const record = rollouts.require(c.req.valid('param').id);
      const { cursor, limit, state } = c.req.valid('query');
      const outcomes = await rollouts.tallies.outcomes(record.rollout.id);
      const query = { after: cursor, limit, state, nowMs: now() };
      return c.json({ ...describe(record), ...statusOf(record, outcomes, fleet, query) }, 200);
    },
  );
}

function endingRoutes(app: OriginApp, { tokens, rollouts }: AppDeps): void {
  const endings = {
    abort: ['Ends a rollout: devices that have not activated it yet leave it alone.', 'abort'],
    complete: ['Ends a rollout as good: its release is what latecomers get.', 'complete'],
  } as const;
  for (const [name, [summary, act]] of Object.entries(endings)) {
    app.openapi(
      createRoute({
        method: 'post',
        path: `/api/v1/rollouts/{id}/${name}`,
        summary,
        security: bearer('operator'),
        middleware: [requireRole(tokens, 'operator')],
        request: { params: idParam },
        responses: withProblems({
          200: { description: 'As it is now.', content: { [JSON_TYPE]: { schema: rolloutSchema } } },
          404: { description: 'There is no such one.' },
        }),
      }),
      async c => c.json(describe(await rollouts[act](c.req.valid('param').id, c.get('token').name)), 200),
    );
  }
}

function describe({ product, rollout, startedBy, changes }: RolloutRecord): z.infer<typeof rolloutSchema> {
  const { id, release, state, match, attempt, createdAt } = rollout;
  const { counter, version, manifestSha256 } = release;
  const { hardware, sites, tags } = match;
  return {
    id,
    product,
    release: { counter, version, manifestSha256 },
    state,
    match: { ...(hardware && { hardware }), ...(sites && { sites }), ...(tags && { tags }) },
    attempt,
    createdAt,
    startedBy,
    changes,
  };
}
