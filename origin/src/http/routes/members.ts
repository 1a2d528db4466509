import { createRoute, z } from '@hono/zod-openapi';
import { memberDetailSchema, memberPageSchema } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { DEVICE_STATES, idSchema, readReport, siteSchema } from '@sitecast/shared/fleet';
import { nameSchema, versionSchema } from '@sitecast/shared/release';
import type { MemberKind } from '../../fleet/member.ts';
import type { PendingMember } from '../../fleet/pending.ts';
import type { Status } from '../../fleet/status.ts';
import { listMembers, pendingSummary, summaryOf } from '../../fleet/view.ts';
import type { OriginApp } from '../context.ts';
import type { AppDeps } from '../deps.ts';
import { requireRole } from '../guards.ts';
import { tagTexts, unknownNames } from '../../rollouts/match.ts';
import { bearer, jsonAnswer, withProblems } from '../schemas.ts';
import { hearingOf } from './presence.ts';

export const MAX_PAGE = 1000;
const DEFAULT_PAGE = 100;
/** Reports that the view of one device shows, newest first. */
const SHOWN_REPORTS = 20;
const MAX_FILTER_TAGS = 16;
/** As long as an id. */
const MAX_ID_PART_CHARS = 64;
const MAX_SILENT_FOR_MS = 10 * 365 * 86_400_000;

const tagFilter = z.string().regex(/^[^=]{1,64}=.{0,128}$/, 'NAME=VALUE');

const querySchema = z.object({
  product: nameSchema.optional(),
  site: siteSchema.optional(),
  tag: z.union([tagFilter, z.array(tagFilter).max(MAX_FILTER_TAGS)]).optional(),
  state: z.enum([...DEVICE_STATES, 'enrolled', 'revoked', 'pending']).optional(),
  version: versionSchema.optional(),
  idPart: z.string().min(1).max(MAX_ID_PART_CHARS).optional(),
  silentForMs: z.coerce.number().int().min(0).max(MAX_SILENT_FOR_MS).optional(),
  cursor: idSchema.optional(),
  limit: z.coerce.number().int().min(1).max(MAX_PAGE).default(DEFAULT_PAGE),
});

export const idParam = z.object({ id: idSchema });
/** Devices and gateways, for operators: the same routes for both. */
export function memberRoutes(app: OriginApp, deps: AppDeps): void {
  for (const kind of ['device', 'gateway'] as const) {
    listRoute(app, deps, kind);
    detailRoute(app, deps, kind);
  }
}

function listRoute(app: OriginApp, { tokens, fleet, now }: AppDeps, kind: MemberKind): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: `/api/v1/${kind}s`,
      summary: `The ${kind}s, in the order of their ids; those that wait to be accepted with state=pending.`,
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { query: querySchema },
      responses: withProblems({
        200: jsonAnswer('One page.', memberPageSchema),
      }),
    }),
    c => {
      const { tag, cursor, state, ...query } = c.req.valid('query');
      const waiting = fleet.enrolments.pending.list(kind, now());
      const pending = waiting.length;
      if (state === 'pending') {
        const members = waiting.filter(member => fitsPending(member, { ...query, tag }, now()));
        return c.json({ members: members.map(one => pendingSummary(one, fleet)), pending }, 200);
      }
      const tags = tagsOf(tag);
      const page = listMembers(fleet, {
        ...query,
        kind,
        tags,
        state,
        nowMs: now(),
        after: cursor,
      });
      const isNothing = cursor === undefined && page.members.length === 0;
      const names = { product: listOf(query.product), site: listOf(query.site), tag: tagTexts(tags) };
      const unknown = isNothing ? unknownNames(names, fleet.registry, query.product) : [];
      return c.json({ ...page, pending, ...(unknown.length > 0 && { unknown }) }, 200);
    },
  );
}

function detailRoute(app: OriginApp, { tokens, fleet, now }: AppDeps, kind: MemberKind): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: `/api/v1/${kind}s/{id}`,
      summary: `All that is known of one ${kind}: its newest reports, its chains and what is odd about them.`,
      security: bearer('viewer'),
      middleware: [requireRole(tokens, 'viewer')],
      request: { params: idParam },
      responses: withProblems({
        200: jsonAnswer(`The ${kind}.`, memberDetailSchema),
        404: { description: 'There is no such one.' },
      }),
    }),
    async c => {
      const { id } = c.req.valid('param');
      const member = fleet.registry.require(kind, id);
      const status = fleet.registry.status(id);
      const inventory = await fleet.store.inventory(id);
      const reports = await newestReports(fleet, id, status);
      const hearing = hearingOf(fleet, member, now());
      const brought = [...reports, ...(status ? [status.last] : [])].map(({ via }) => via ?? '');
      const gateways = [...brought, ...(hearing.heardBy ?? [])];
      return c.json(
        {
          ...summaryOf(member, fleet),
          ...chainsOf(status),
          ...hearing,
          ...(isRecord(inventory) && { inventory }),
          ...(status?.kept && { kept: status.kept }),
          names: fleet.registry.namesOf(gateways),
          reports,
        },
        200,
      );
    },
  );
}

export const listOf = (name: string | undefined): string[] => (name === undefined ? [] : [name]);

/** Whether a waiting member fits the filter. It has no tags and no release yet. */
function fitsPending(
  { id, product, site, sites = [], lastAskedMs }: PendingMember,
  query: Pick<z.infer<typeof querySchema>, 'product' | 'site' | 'tag' | 'version' | 'idPart' | 'silentForMs'>,
  nowMs: number,
): boolean {
  const { idPart, silentForMs = 0 } = query;
  return (
    (query.product === undefined || query.product === product) &&
    (query.site === undefined || query.site === site || sites.includes(query.site)) &&
    (idPart === undefined || id.startsWith(idPart) || id.endsWith(idPart)) &&
    nowMs - lastAskedMs >= silentForMs &&
    query.tag === undefined &&
    query.version === undefined
  );
}

function tagsOf(tag: string | string[] | undefined): Record<string, string> {
  const tags = tag === undefined ? [] : [tag].flat();
  return Object.fromEntries(
    tags.map(text => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]),
  );
}

function chainsOf(status: Status | undefined) {
  const chains = (status?.chains ?? []).map(({ epoch, seq, begunAt, receivedAt }) => ({
    epoch,
    seq,
    begunAt,
    receivedAt,
  }));
  return { chains, anomalies: status?.anomalies ?? [] };
}

async function newestReports(fleet: AppDeps['fleet'], id: string, status: Status | undefined) {
  const chain = status?.chains.at(-1);
  if (!chain) return [];
  const stored = await fleet.intake.reportsOf(id, chain.epoch, SHOWN_REPORTS);
  return stored.map(({ envelope, receivedAt, via }) => ({
    receivedAt,
    ...(via !== undefined && { via }),
    report: reportIn(envelope),
  }));
}

/** The report's document. It was valid when it was stored. */
function reportIn(envelope: unknown): Record<string, unknown> {
  try {
    return readReport(envelope).document;
  } catch (cause) {
    throw new SitecastError('failed', 'SITECAST_STATE_DAMAGED', 'a stored report is unreadable', { cause });
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
