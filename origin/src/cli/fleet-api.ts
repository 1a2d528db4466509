import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import type { OriginClient } from './origin-client.ts';
import { presenceSchema, turnSchema } from './presence-view.ts';

const PAGE = 1000;

const releaseSchema = z.object({ counter: z.number(), version: z.string() });
const reasonSchema = z.object({ code: z.string(), message: z.string() });

/** Names by id; not told by an origin of before. */
export const namesSchema = z.record(z.string(), z.string()).default({});

const lastSchema = z.object({
  state: z.string(),
  at: z.string(),
  receivedAt: z.string(),
  timestampVersion: z.number(),
  rollout: z.object({ id: z.string(), attempt: z.number() }).optional(),
  release: releaseSchema.optional(),
  booted: z.object({ slot: z.string(), release: releaseSchema.optional() }).optional(),
  reason: reasonSchema.optional(),
  via: z.string().optional(),
});

export const memberSchema = z.object({
  id: z.string(),
  kind: z.enum(['device', 'gateway']),
  name: z.string().optional(),
  product: z.string().optional(),
  hardware: z.string().optional(),
  site: z.string().optional(),
  tags: z.record(z.string(), z.string()),
  state: z.string(),
  serial: z.number().optional(),
  enrolledAt: z.string().optional(),
  revokedAt: z.string().optional(),
  quarantinedAt: z.string().optional(),
  odd: z.array(z.string()).default([]),
  lastSeenAt: z.string().optional(),
  presence: presenceSchema,
  last: lastSchema.optional(),
  via: z.string().optional(),
  sites: z.array(z.string()).optional(),
  wish: z.string().optional(),
  wishBearer: z
    .object({ id: z.string(), kind: z.enum(['device', 'gateway']), lastHeardAt: z.string() })
    .optional(),
});
export type Member = z.infer<typeof memberSchema>;

export const memberDetailSchema = memberSchema.extend({
  chains: z.array(
    z.object({ epoch: z.string(), seq: z.number(), begunAt: z.string(), receivedAt: z.string() }),
  ),
  anomalies: z.array(z.object({ kind: z.string(), at: z.string(), epoch: z.string(), seq: z.number() })),
  heardBy: z.array(z.string()).optional(),
  hears: z.object({ devices: z.number(), turns: z.array(turnSchema) }).optional(),
  inventory: z.record(z.string(), z.unknown()).optional(),
  /** An origin of an earlier version doesn't say. */
  kept: z.object({ reports: z.number(), bytes: z.number(), dropped: z.number() }).optional(),
  /** Of the gateways that reports came through. */
  names: namesSchema,
  reports: z.array(
    z.object({
      receivedAt: z.string(),
      via: z.string().optional(),
      report: z.looseObject({
        seq: z.number(),
        at: z.string(),
        state: z.string(),
        release: releaseSchema.optional(),
        rollout: z.looseObject({ id: z.string() }).optional(),
        reason: reasonSchema.optional(),
      }),
    }),
  ),
});
export type MemberDetail = z.infer<typeof memberDetailSchema>;

/** Names that nobody in the fleet has, or had before: a slip, perhaps. */
export const unknownNamesSchema = z
  .array(z.object({ what: z.string(), name: z.string(), nearest: z.string().optional() }))
  .default([]);
type UnknownNames = z.infer<typeof unknownNamesSchema>;

export const changedMemberSchema = memberSchema.extend({ unknown: unknownNamesSchema });

const memberPageSchema = z.object({
  members: z.array(memberSchema),
  nextCursor: z.string().optional(),
  pending: z.number(),
  unknown: unknownNamesSchema,
});

const figuresSchema = z.object({
  members: z.number(),
  sites: z.number(),
  joined: z.number(),
  wellJoined: z.number(),
  well: z.number(),
  failed: z.number(),
  failedSites: z.number(),
  blocked: z.number(),
  returned: z.number(),
  running: z.number(),
  waiting: z.number(),
  pending: z.number(),
  gone: z.number(),
  silent: z.number(),
  unreachable: z.number(),
  late: z.number(),
});
export type Figures = z.infer<typeof figuresSchema>;

const planSchema = z.object({
  stages: z.array(z.object({ basisPoints: z.number(), soakMs: z.number() })),
  maxFailuresBasisPoints: z.number(),
  minFailures: z.number(),
  onFailure: z.string(),
  silentAfterMs: z.number(),
  /** Not told by an origin of 0.1.0, which completes a rollout once its last device is well. */
  lastStageSoaks: z.boolean().default(false),
});

export const rolloutSchema = z.object({
  id: z.string(),
  product: z.string(),
  release: releaseSchema,
  state: z.string(),
  match: z.object({
    hardware: z.array(z.string()).optional(),
    sites: z.array(z.string()).optional(),
    tags: z.record(z.string(), z.string()).optional(),
    fromCounter: z.object({ min: z.number(), max: z.number() }).optional(),
  }),
  attempt: z.number(),
  createdAt: z.string(),
  startedBy: z.string(),
  plan: planSchema,
  stage: z.number(),
  stageStartedAt: z.string(),
  settledAt: z.string().optional(),
  stop: z.object({ why: z.string(), by: z.string(), at: z.string(), figures: figuresSchema }).optional(),
  rollbackTo: releaseSchema.optional(),
  window: z.string().optional(),
  download: z.string().optional(),
  notBefore: z.string().optional(),
  offlineForMs: z.number(),
  maxDownBasisPoints: z.number(),
  changes: z.array(
    z.object({ at: z.string(), by: z.string(), state: z.string(), action: z.string().optional() }),
  ),
});
export type Rollout = z.infer<typeof rolloutSchema>;

const failureGroupSchema = z.object({
  code: z.string(),
  /** Not told by an origin of 0.1.0. */
  detail: z.string().optional(),
  hardware: z.string(),
  /** Of the first of `devices`. */
  message: z.string(),
  count: z.number(),
  sites: z.number(),
  devices: z.array(z.string()),
});

const rolloutStatusSchema = rolloutSchema.extend({
  counts: z.record(z.string(), z.number()),
  total: z.number(),
  /** Not told by an origin of 0.1.0 or before. */
  matching: z.number().optional(),
  /** What an operator can do with it now. */
  acts: z.array(z.string()).default([]),
  figures: figuresSchema.optional(),
  /** Not told by an origin of 0.1.0. */
  back: z
    .object({ left: z.number(), lateLeft: z.number(), stuck: z.number(), returned: z.number() })
    .optional(),
  failures: z.array(failureGroupSchema),
  names: namesSchema,
  devices: z.array(
    z.object({
      id: z.string(),
      name: z.string().optional(),
      site: z.string(),
      state: z.string(),
      at: z.string().optional(),
      reason: reasonSchema.optional(),
      progress: z.object({ doneBytes: z.number(), totalBytes: z.number() }).optional(),
      overdue: z.string().optional(),
      heard: z.boolean().optional(),
    }),
  ),
  turns: z.array(turnSchema).default([]),
  nextCursor: z.string().optional(),
});
export type RolloutStatus = z.infer<typeof rolloutStatusSchema>;

/** Rollouts that just soaked, and are completed by the start of the next. */
const supersedesSchema = z.array(z.object({ rollout: z.string(), version: z.string() })).default([]);

export const startedRolloutSchema = rolloutStatusSchema.extend({ supersedes: supersedesSchema });

export const dryRunSchema = z.object({
  id: z.string(),
  total: z.number(),
  plan: planSchema,
  stages: z.array(z.object({ basisPoints: z.number(), count: z.number(), devices: z.array(z.string()) })),
  names: namesSchema,
  supersedes: supersedesSchema,
  /** A rollout under way that could reach the same devices: until it has ended, this one can't be started. */
  blockedBy: z.object({ rollout: z.string(), version: z.string(), state: z.string() }).optional(),
});
export type DryRun = z.infer<typeof dryRunSchema>;

export const previewSchema = z.object({
  act: z.string(),
  touches: z.number(),
  what: z.string(),
  target: z.number().optional(),
});

/** Which members a list is to show. */
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
 * Members that a filter lets through, page by page, and how many others wait to be accepted.
 * @param limit how many at the most
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
      // Those that wait come on one page, however many are asked for.
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

/** `NAME=VALUE`, collected over repeated flags. For commander. */
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
