import * as wire from '@sitecast/shared/api';
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import type { OriginClient } from './client.ts';

// The command reads the origin's answers by the schemas of `shared/src/api`, with two differences. An origin of an earlier version doesn't
// send every field: such a field has a default here. And `--json` prints the parsed answer: a field that isn't to be printed is left out.

const PAGE = 1000;

/** Names by id. */
export const namesSchema = z.record(z.string(), z.string()).default({});
/** An unknown word, of a later origin, is read as undefined. */
const presenceWord = z.enum(wire.PRESENCES).optional().catch(undefined);
const turnSchema = wire.turnSchema.extend({ presence: presenceWord });
export type Turn = z.infer<typeof turnSchema>;

const memberFields = {
  odd: wire.memberSchema.shape.odd.default([]),
  presence: presenceWord,
  last: wire.memberSchema.shape.last.unwrap().omit({ epoch: true, seq: true }).optional(),
};
export const memberSchema = wire.memberSchema.extend(memberFields);
export type Member = z.infer<typeof memberSchema>;

const { reason: reasonSchema, release: releaseSchema } = memberFields.last.unwrap().shape;
const storedReportSchema = wire.memberDetailSchema.shape.reports.element;

export const memberDetailSchema = wire.memberDetailSchema.extend({
  ...memberFields,
  hears: z.object({ devices: z.number(), turns: z.array(turnSchema) }).optional(),
  names: namesSchema,
  reports: z.array(
    storedReportSchema.extend({
      report: z.looseObject({
        seq: z.number(),
        at: z.string(),
        state: z.string(),
        release: releaseSchema,
        rollout: z.looseObject({ id: z.string() }).optional(),
        reason: reasonSchema,
        transfer: wire.transferSchema.optional().catch(undefined),
      }),
    }),
  ),
});
export type MemberDetail = z.infer<typeof memberDetailSchema>;

const unknownNamesSchema = wire.changedMemberSchema.shape.unknown.unwrap().default([]);
type UnknownNames = z.infer<typeof unknownNamesSchema>;

export const changedMemberSchema = memberSchema.extend({ unknown: unknownNamesSchema });

const memberPageSchema = wire.memberPageSchema.extend({
  members: z.array(memberSchema),
  unknown: unknownNamesSchema,
});

const joinTokenSchema = wire.joinTokenSchema.omit({ createdAt: true });
export const createdJoinTokenSchema = joinTokenSchema.extend({
  token: z.string(),
  unknown: unknownNamesSchema,
});
export const joinTokenListSchema = z.object({ joinTokens: z.array(joinTokenSchema) });

/** Silent gateways and current leases, as gateways report them. */
export const fleetPresenceSchema = wire.fleetPresenceSchema.extend({ turns: z.array(turnSchema) });

const figuresSchema = wire.rolloutFiguresSchema.omit({ lateWell: true });
export type Figures = z.infer<typeof figuresSchema>;

const rolloutFields = {
  release: wire.rolloutSchema.shape.release.omit({ manifestSha256: true }),
  plan: wire.rolloutSchema.shape.plan.extend({
    /** An origin of 0.1.0 doesn't send it: it completes a rollout once its last device has succeeded. */
    lastStageSoaks: z.boolean().default(false),
  }),
  stop: wire.rolloutStopSchema.extend({ figures: figuresSchema }).optional(),
  changes: z.array(wire.rolloutSchema.shape.changes.element.omit({ stage: true, why: true })),
};
export const rolloutSchema = wire.rolloutSchema.extend(rolloutFields);
export type Rollout = z.infer<typeof rolloutSchema>;

const statusFields = {
  ...rolloutFields,
  /** It may hold states of a later origin, too. */
  counts: z.record(z.string(), z.number()),
  matching: z.number().optional(),
  acts: wire.rolloutStatusSchema.shape.acts.default([]),
  figures: figuresSchema.optional(),
  names: namesSchema,
  turns: z.array(turnSchema).default([]),
};
const rolloutStatusSchema = wire.rolloutStatusSchema.extend(statusFields);
export type RolloutStatus = z.infer<typeof rolloutStatusSchema>;

const supersedes = wire.startedRolloutSchema.shape.supersedes.default([]);
export const startedRolloutSchema = wire.startedRolloutSchema.extend({ ...statusFields, supersedes });

export const dryRunSchema = wire.rolloutDryRunSchema.extend({
  plan: rolloutFields.plan,
  names: namesSchema,
  supersedes,
});
export type DryRun = z.infer<typeof dryRunSchema>;

export const previewSchema = wire.rolloutPreviewSchema.pick({
  act: true,
  touches: true,
  what: true,
  target: true,
});

/** Which members a list shows. */
export interface MemberFilter {
  product?: string | undefined;
  site?: string | undefined;
  tag?: readonly string[] | undefined;
  state?: string | undefined;
  version?: string | undefined;
  silentForMs?: number | undefined;
  idPart?: string | undefined;
}

/**
 * The members that match a filter, read page by page, and the number of further members that wait to be accepted.
 * @param limit the most members to read
 */
export async function fetchMembers(
  origin: OriginClient,
  kind: Member['kind'],
  filter: MemberFilter,
  limit = Number.POSITIVE_INFINITY,
): Promise<{ members: Member[]; pending: number; hasMore: boolean; unknown: UnknownNames }> {
  const members: Member[] = [];
  const query = new URLSearchParams();
  for (const name of ['product', 'site', 'state', 'version', 'silentForMs', 'idPart'] as const) {
    const value = filter[name];
    if (value !== undefined) query.set(name, String(value));
  }
  for (const tag of filter.tag ?? []) query.append('tag', tag);
  for (;;) {
    query.set('limit', String(Math.min(PAGE, limit - members.length)));
    const page = await origin.json(`/api/v1/${kind}s?${query.toString()}`, memberPageSchema);
    members.push(...page.members);
    const hasMore = page.nextCursor !== undefined;
    if (page.nextCursor === undefined || members.length >= limit) {
      const { pending, unknown } = page;
      // Waiting members come on one page, whatever the limit.
      return {
        members: members.slice(0, limit),
        pending,
        hasMore: hasMore || members.length > limit,
        unknown,
      };
    }
    query.set('cursor', page.nextCursor);
  }
}

/** A rollout with all of its devices. */
export async function fetchRolloutStatus(origin: OriginClient, id: string): Promise<RolloutStatus> {
  const query = new URLSearchParams({ limit: String(PAGE) });
  const path = `/api/v1/rollouts/${encodeURIComponent(id)}`;
  const first = await origin.json(`${path}?${query.toString()}`, rolloutStatusSchema);
  const devices = [...first.devices];
  let cursor = first.nextCursor;
  while (cursor !== undefined) {
    query.set('cursor', cursor);
    const page = await origin.json(`${path}?${query.toString()}`, rolloutStatusSchema);
    devices.push(...page.devices);
    cursor = page.nextCursor;
  }
  const { nextCursor: _nextCursor, ...status } = first;
  return { ...status, devices };
}

export async function fetchRollouts(origin: OriginClient, product?: string): Promise<Rollout[]> {
  const query = product === undefined ? '' : `?${new URLSearchParams({ product }).toString()}`;
  const { rollouts } = await origin.json(
    `/api/v1/rollouts${query}`,
    z.object({ rollouts: z.array(rolloutSchema) }),
  );
  return rollouts;
}

/** Collects `NAME=VALUE` over repeated flags. For commander. */
export function collectTag(text: string, before: string[] | undefined): string[] {
  if (!/^[a-z0-9][a-z0-9._-]*=/.test(text))
    throw new InvalidArgumentError('expected NAME=VALUE, such as ring=early');
  return [...(before ?? []), text];
}

/** Collects repeated flags. For commander. */
export function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}

/** `['a=b']` → `{ a: 'b' }` */
export function tagsOf(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map(text => [text.slice(0, text.indexOf('=')), text.slice(text.indexOf('=') + 1)]),
  );
}
