import { createRoute, z } from '@hono/zod-openapi';
import {
  deltaListSchema,
  deltaRemovalSchema,
  deltaRequestSchema,
  type DeltaView,
} from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { type DeltaName, nameSchema, versionSchema } from '@sitecast/shared/release';
import { updateCost } from '../../deltas/costs.ts';
import { costOf, type DeltaJob, estimatedCostOf } from '../../deltas/job.ts';
import type { SignedDelta } from '../../deltas/signed.ts';
import { readListing } from '../../repository/listing.ts';
import type { Repository } from '../../repository/repository.ts';
import { demandProduct, findRelease, versionIn } from '../../rollouts/releases.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole, takeJson } from '../guards.ts';
import { bearer, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';

const MAX_BODY_BYTES = 16 * 1024;
const path = '/api/v1/products/{product}/deltas';
const params = z.object({ product: nameSchema });

/** Deltas between releases: which are made, what updates cost, having some made beforehand, and removing some. */
export function deltaRoutes(app: OriginApp, deps: AppDeps): void {
  listRoute(app, deps);
  requestRoute(app, deps);
  removeRoute(app, deps);
}

function listRoute(app: OriginApp, deps: AppDeps): void {
  const { tokens, deltas, repository, published, fleet } = deps;
  app.openapi(
    createRoute({
      method: 'get',
      path,
      summary: "A product's deltas; with `to`, what an update to that release costs from each that runs.",
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { params, query: z.object({ to: versionSchema.optional() }) },
      responses: withProblems({
        200: jsonAnswer('The deltas.', deltaListSchema),
        404: { description: 'No such product or release is published.' },
      }),
    }),
    async c => {
      const { product } = c.req.valid('param');
      const { to } = c.req.valid('query');
      demandProduct(repository, product);
      const list = [...deltas.list(product), ...(await deltas.signed.list(product))];
      const why = list.some(({ state }) => state === 'waiting') ? deltas.whyNone() : undefined;
      const held = why === undefined ? {} : { held: why };
      if (to === undefined) return c.json({ deltas: await shown(repository, list), ...held }, 200);
      const { counter, version } = (await findRelease({ repository }, product, { version: to })).manifest;
      const costDeps = { repository, published, registry: fleet.registry };
      const cost = await updateCost(costDeps, { product, counter, version });
      const toIt = list.filter(delta => delta.to === counter);
      return c.json({ deltas: await shown(repository, toIt), cost, ...held }, 200);
    },
  );
}

/** What the requests that change deltas have in common. */
function changing({ tokens, bodies }: AppDeps) {
  return {
    method: 'post' as const,
    security: bearer('operator'),
    middleware: takeJson({ tokens, bodies }, 'operator', MAX_BODY_BYTES),
  };
}

function requestRoute(app: OriginApp, deps: AppDeps): void {
  const { deltas, repository } = deps;
  app.openapi(
    createRoute({
      path,
      summary:
        'Has deltas to a release made, in the background. Those that are made already stay as they are.',
      ...changing(deps),
      request: { params, body: jsonBody(deltaRequestSchema) },
      responses: withProblems({
        202: jsonAnswer('The deltas that were asked for.', deltaListSchema),
        404: { description: 'No such release is published.' },
      }),
    }),
    async c => {
      const { product } = c.req.valid('param');
      const { to, from } = await countersOf(repository, product, c.req.valid('json'));
      if (from?.includes(to)) throw sameRelease();
      const wanted: DeltaName[] = (from ?? []).map(counter => ({ product, from: counter, to }));
      const { committed } = repository;
      if (!from && committed)
        wanted.push(...deltas.usefulTo(product, to, readListing(committed.targets.signed)));
      const jobs = await deltas.request(wanted, c.get('token').name);
      const signed = (await deltas.signed.list(product)).filter(delta =>
        wanted.some(name => delta.from === name.from && delta.to === to),
      );
      return c.json({ deltas: await shown(repository, [...jobs, ...signed]) }, 202);
    },
  );
}

function removeRoute(app: OriginApp, deps: AppDeps): void {
  const { deltas, repository } = deps;
  app.openapi(
    createRoute({
      path: `${path}/remove`,
      summary:
        "Ends the making of deltas, and takes the origin's out of the list. A rollout that is started later has them made again.",
      ...changing(deps),
      request: { params, body: jsonBody(deltaRemovalSchema) },
      responses: withProblems({
        200: jsonAnswer('The deltas that were removed.', deltaListSchema),
        404: { description: 'No such product, release or delta.' },
      }),
    }),
    async c => {
      const { product } = c.req.valid('param');
      const { to, from } = await countersOf(repository, product, c.req.valid('json'));
      const named = deltas
        .list(product)
        .filter(
          delta => delta.to === to && from?.includes(delta.from) !== false && delta.state !== 'removed',
        );
      const missing = from?.find(counter => !named.some(delta => delta.from === counter));
      if (missing !== undefined || named.length === 0)
        throw await noSuchDelta(repository, product, missing, to);
      return c.json(
        { deltas: await shown(repository, await deltas.remove(named, c.get('token').name)) },
        200,
      );
    },
  );
}

interface NamedReleases {
  to: ReleaseName;
  from?: readonly ReleaseName[] | undefined;
}

type ReleaseName = { version: string } | { counter: number };

/** @returns the counters of published releases. @throws SITECAST_PRODUCT_UNKNOWN, SITECAST_RELEASE_UNKNOWN */
async function countersOf(repository: Repository, product: string, { to, from }: NamedReleases) {
  const counterOf = async (name: ReleaseName): Promise<number> =>
    (await findRelease({ repository }, product, name)).manifest.counter;
  return { to: await counterOf(to), from: from && (await Promise.all(from.map(counterOf))) };
}

async function noSuchDelta(
  repository: Repository,
  product: string,
  from: number | undefined,
  to: number,
): Promise<SitecastError> {
  const labelOf = async (counter: number): Promise<string> =>
    (await versionIn(repository, product, counter)) ?? `counter ${counter}`;
  const toText = await labelOf(to);
  const fromText = from === undefined ? '' : ` from ${await labelOf(from)}`;
  return new SitecastError(
    'notFound',
    'SITECAST_DELTA_UNKNOWN',
    `the origin makes no delta${fromText} to ${product} ${toText}, and has none`,
    { hint: `\`sitecast release deltas ${product} ${toText}\` lists those that there are.` },
  );
}

/** For people too: with the labels of the releases, as far as those are published. */
async function shown(
  repository: Repository,
  deltas: readonly (DeltaJob | SignedDelta)[],
): Promise<DeltaView[]> {
  const versions = new Map<string, string | undefined>();
  const versionOf = async (product: string, counter: number): Promise<string | undefined> => {
    const key = `${product} ${counter}`;
    if (!versions.has(key)) versions.set(key, await versionIn(repository, product, counter));
    return versions.get(key);
  };
  const views: DeltaView[] = [];
  for (const delta of deltas) {
    const { product, from, to } = delta;
    const [fromVersion, toVersion] = [await versionOf(product, from), await versionOf(product, to)];
    views.push({
      ...('signed' in delta ? signedView(delta) : jobView(delta)),
      ...(fromVersion !== undefined && { fromVersion }),
      ...(toVersion !== undefined && { toVersion }),
    });
  }
  return views;
}

function jobView(job: DeltaJob): DeltaView {
  const { product: _product, headBytes: _head, restBytes: _rest, ...view } = job;
  const [bytes, estimatedBytes] = [costOf(job), estimatedCostOf(job)];
  return {
    ...view,
    ...(bytes !== undefined && { bytes }),
    ...(estimatedBytes !== undefined && { estimatedBytes }),
  };
}

const signedView = ({ product: _product, ...view }: SignedDelta): DeltaView => view;

function sameRelease(): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_DELTA_MISMATCH',
    'a delta leads from one release to another',
  );
}
