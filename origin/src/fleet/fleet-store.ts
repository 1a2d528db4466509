import { MEMBER_KINDS } from '@sitecast/shared/api';
import { memberNameSchema, siteSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { z } from 'zod';
import type { AuditEvent } from '../audit/audit.ts';
import type { Member } from './member.ts';
import type { Outcome } from './outcome.ts';
import type { Registry } from './registry.ts';
import type { Status } from './status.ts';

export const MAX_JOIN_TOKENS = 10_000;

export const joinTokenSchema = z.object({
  /** Key id of its public half. */
  id: z.string(),
  /** In hex. */
  publicKey: z.string().regex(/^[0-9a-f]{64}$/),
  kind: z.enum(MEMBER_KINDS),
  /** The name that the newcomer gets. */
  name: memberNameSchema.exactOptional(),
  site: siteSchema.exactOptional(),
  product: nameSchema.exactOptional(),
  hardware: nameSchema.exactOptional(),
  uses: z.int().min(1),
  used: z.int().min(0),
  createdAt: z.iso.datetime(),
  createdBy: z.string(),
  expiresAt: z.iso.datetime(),
});
export type StoredJoinToken = z.infer<typeof joinTokenSchema>;

export const storedReportSchema = z.object({
  envelope: z.unknown(),
  /** Of the payload's bytes. */
  sha256: z.string(),
  receivedAt: z.string(),
  /** The gateway that brought it. */
  via: z.string().exactOptional(),
});
export type StoredReport = z.infer<typeof storedReportSchema>;

/** Which report: of which device, in which chain, and its number there. */
export interface ReportPlace {
  id: string;
  epoch: string;
  seq: number;
}

/** A newcomer that comes in, and what changes together with it. */
export interface Admission {
  member: Member;
  /** The join token that is used up by one. Without a use left it lets nobody in, but where an operator has accepted the newcomer. */
  joinToken?: { id: string; isRequired: boolean } | undefined;
  /** The member whose name the newcomer takes over: as it was judged by, and revoked. */
  replaces?: { before: Member; after: Member } | undefined;
  events: readonly AuditEvent[];
}

/** What has become of an admission. In all cases but the first nothing is changed. */
export type Admitted =
  | { outcome: 'admitted' }
  /** It is a member already. */
  | { outcome: 'known'; member: Member }
  | { outcome: 'nameTaken'; bearer: Member }
  | { outcome: 'joinTokenUnknown' }
  | { outcome: 'joinTokenUsedUp' }
  /** The member to be replaced isn't any more what it was judged by. */
  | { outcome: 'stale' };

export type MemberChanged = { outcome: 'changed' | 'stale' } | { outcome: 'nameTaken'; bearer: Member };

/** What a batch of reports changes. */
export interface Intake {
  /** Of each device what its reports were judged by, and what comes of it. */
  statuses: readonly { before: Status | undefined; after: Status }[];
  reports: readonly { place: ReportPlace; report: StoredReport }[];
  droppedReports: readonly ReportPlace[];
  outcomes: readonly { rolloutId: string; deviceId: string; outcome: Outcome }[];
  inventories: readonly { id: string; inventory: Record<string, unknown> }[];
  events: readonly AuditEvent[];
}

/**
 * Where members, join tokens and reports are kept. Each method that changes something is one commit, together with the audit entries that tell
 * of it: all of it is durable when the method resolves, or none of it is there and it throws SITECAST_NO_SPACE or SITECAST_STATE_UNWRITABLE.
 * Several origins may call any method at once: what a change relies on is checked as it's made.
 */
export interface FleetStore {
  /** What is known of members, in memory: as of each commit, before the caller of that hears of it. */
  readonly registry: Registry;

  admit(admission: Admission): Promise<Admitted>;
  /** @param before the member as the change was decided by: where it isn't that any more, nothing is changed */
  changeMember(before: Member, after: Member, event: AuditEvent): Promise<MemberChanged>;

  /** All join tokens, as far as this origin knows them by now; no disk is asked. */
  joinTokens(): Iterable<StoredJoinToken>;
  joinToken(id: string): StoredJoinToken | undefined;
  addJoinToken(token: StoredJoinToken, event: AuditEvent): Promise<'added' | 'tooMany'>;
  removeJoinToken(
    id: string,
    eventOf: (token: StoredJoinToken) => AuditEvent,
  ): Promise<'removed' | 'unknown'>;

  /** Takes reports in. @returns `stale`: a device's status isn't any more what its reports were judged by, and nothing is changed */
  takeIn(intake: Intake): Promise<'taken' | 'stale'>;
  /** Undefined for a report that isn't kept, and for one that can't be read any more. */
  report(place: ReportPlace): Promise<StoredReport | undefined>;
  /** A chain's reports, newest first. @throws SITECAST_STATE_DAMAGED */
  newestReports(id: string, epoch: string, limit: number): Promise<StoredReport[]>;
  /** A device's kept reports, or those of one chain; chain by chain, oldest first. */
  keptReports(id: string, epoch?: string): AsyncIterable<{ place: ReportPlace; lengthBytes: number }>;
  /** Undefined where the device hasn't reported about the rollout, and where its outcome can't be read any more. */
  outcome(rolloutId: string, deviceId: string): Promise<Outcome | undefined>;
  inventory(id: string): Promise<unknown>;

  /** Makes durable when members were last heard, as the registry knows it. Done now and then: after a crash the minutes since are missing. */
  saveSeen(): Promise<void>;
  /** Ids of gateways that report which devices they hear. */
  reportingGateways(): Promise<string[]>;
  /** @param changes whether each of these gateways does so now */
  saveReportingGateways(changes: ReadonlyMap<string, boolean>): Promise<void>;
}
