import { createRoute, z } from '@hono/zod-openapi';
import {
  changeResultSchema,
  changeSchema,
  pendingKeySchema,
  releaseDamageSchema,
  repairedSchema,
  repositorySchema,
} from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { nameSchema } from '@sitecast/shared/release';
import { ONLINE_ROLES } from '@sitecast/shared/signing';
import { describeRepository } from '../../repository/description.ts';
import { recordChange } from '../../audit/repository-change.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole, takeJson } from '../guards.ts';
import { bearer, jsonAnswer, jsonBody, withProblems } from '../schemas.ts';

/** The bound of root and targets together, as JSON strings, in which each newline and quote takes two bytes. */
const MAX_CHANGE_BYTES = 20 * 1024 * 1024;

/** The repository's status and changes. */
export function repositoryRoutes(app: OriginApp, deps: AppDeps): void {
  describeRoute(app, deps);
  changeRoute(app, deps);
  repairRoute(app, deps);
  checkRoute(app, deps);
  rotateRoute(app, deps);
}

function describeRoute(
  app: OriginApp,
  { tokens, repository, readiness, ownCertificate, fleet, now }: AppDeps,
): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/api/v1/repository',
      summary: "The origin's keys, the published versions and when they expire.",
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      responses: withProblems({
        200: jsonAnswer('The repository.', repositorySchema),
      }),
    }),
    async c => {
      const { putOffs: _putOffs, ...reports } = fleet.intake.totals;
      const { warnings, ...description } = describeRepository(repository, now());
      const own = ownCertificate?.warnings(now()) ?? [];
      const all = [...(await readiness.warnings()), ...warnings, ...own];
      return c.json({ ...description, warnings: all, reports }, 200);
    },
  );
}

function changeRoute(app: OriginApp, { tokens, repository, audit, bodies }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/changes',
      summary:
        'Publishes new signed root and/or targets metadata: all of it or nothing. A root needs an admin.',
      security: bearer('operator'),
      middleware: takeJson({ tokens, bodies }, 'operator', MAX_CHANGE_BYTES),
      request: { body: jsonBody(changeSchema) },
      responses: withProblems({
        200: jsonAnswer('Published.', changeResultSchema),
      }),
    }),
    async c => {
      const { root, targets, dryRun } = c.req.valid('json');
      if (root !== undefined) tokens.authorise(c.req.header('authorization'), 'admin');
      const { isAlreadyDone, ...result } = await repository.submit({
        root: root === undefined ? undefined : Buffer.from(root, 'utf8'),
        targets: targets === undefined ? undefined : Buffer.from(targets, 'utf8'),
        isDryRun: dryRun,
        beforeCommit: result => recordChange(audit, c.get('token').name, result, root !== undefined),
      });
      return c.json({ ...result, alreadyDone: isAlreadyDone }, 200);
    },
  );
}

function repairRoute(app: OriginApp, { tokens, repository, scrubber, audit }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/repairs',
      summary: 'Puts uploaded chunks and files in the place of those that published releases have lost.',
      security: bearer('operator'),
      middleware: [requireRole(tokens, 'operator')],
      responses: withProblems({
        200: jsonAnswer('How many chunks were put back, and which target files.', repairedSchema),
      }),
    }),
    async c => {
      await audit.record({ by: c.get('token').name, action: 'repository.repair', subject: 'repository' });
      const repaired = await repository.repair();
      await scrubber.recheck();
      return c.json(repaired, 200);
    },
  );
}

function checkRoute(app: OriginApp, { tokens, scrubber }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/releases/{product}/{counter}/check',
      summary: 'Reads back all that is published of a release, and sets aside what is damaged.',
      security: bearer('operator'),
      middleware: [requireRole(tokens, 'operator')],
      request: { params: z.object({ product: nameSchema, counter: z.coerce.number().int().min(1) }) },
      responses: withProblems({
        200: jsonAnswer('How many chunks the release lacks, and which files.', releaseDamageSchema),
      }),
    }),
    async c => {
      const { product, counter } = c.req.valid('param');
      const damage = await scrubber.checkRelease(product, counter);
      if (damage) return c.json(damage, 200);
      throw new SitecastError(
        'notFound',
        'SITECAST_RELEASE_UNKNOWN',
        `no release ${counter} of ${product} is listed`,
      );
    },
  );
}

function rotateRoute(app: OriginApp, { tokens, repository, audit }: AppDeps): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/api/v1/keys/{role}/rotate',
      summary: 'Makes, or returns, the next key of an online role; it becomes active when metadata names it.',
      security: bearer('admin'),
      middleware: [requireRole(tokens, 'admin')],
      request: { params: z.object({ role: z.enum(ONLINE_ROLES) }) },
      responses: withProblems({
        200: jsonAnswer('The pending key.', pendingKeySchema),
      }),
    }),
    async c => {
      const { role } = c.req.valid('param');
      await audit.record({ by: c.get('token').name, action: 'keys.rotate', subject: `role:${role}` });
      return c.json({ role, key: await repository.prepareKey(role) }, 200);
    },
  );
}
