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
  /** The name that the new member gets. */
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
  /** Hash of the payload's bytes. */
  sha256: z.string(),
  receivedAt: z.string(),
  /** The gateway that relayed it. */
  via: z.string().exactOptional(),
});
export type StoredReport = z.infer<typeof storedReportSchema>;

/** Which report: of which device, in which chain, and its number there. */
export interface ReportPlace {
  id: string;
  epoch: string;
  seq: number;
}

/** A new member, and the changes that belong to it. */
export interface Admission {
  member: Member;
  /** The join token of which one use is taken. Without a use left the member isn't admitted, unless an operator has accepted it. */
  joinToken?: { id: string; isRequired: boolean } | undefined;
  /** The member whose name the new member takes over: as it was when that was decided, and as revoked. */
  replaces?: { before: Member; after: Member } | undefined;
  events: readonly AuditEvent[];
}

/** The outcome of an admission. Only the first one changes anything. */
export type Admitted =
  | { outcome: 'admitted' }
  /** It is a member already. */
  | { outcome: 'known'; member: Member }
  | { outcome: 'nameTaken'; bearer: Member }
  | { outcome: 'joinTokenUnknown' }
  | { outcome: 'joinTokenUsedUp' }
  /** The member to be replaced has changed since the decision. */
  | { outcome: 'stale' };

export type MemberChanged = { outcome: 'changed' | 'stale' } | { outcome: 'nameTaken'; bearer: Member };

/** What a batch of reports changes. */
export interface Intake {
  /** For each device the status on which its reports were judged, and the new one. */
  statuses: readonly { before: Status | undefined; after: Status }[];
  reports: readonly { place: ReportPlace; report: StoredReport }[];
  droppedReports: readonly ReportPlace[];
  outcomes: readonly { rolloutId: string; deviceId: string; outcome: Outcome }[];
  inventories: readonly { id: string; inventory: Record<string, unknown> }[];
  events: readonly AuditEvent[];
}

/**
 * Stores members, join tokens and reports. Each method that changes something is one commit, together with its audit entries. When the
 * method resolves, all of it is durable. When it throws SITECAST_NO_SPACE or SITECAST_STATE_UNWRITABLE, nothing has changed.
 * Several origins may call any method at once: the conditions of a change are checked in its commit.
 */
export interface FleetStore {
  /** What is known of members, in memory. It is updated with each commit, before the commit's caller continues. */
  readonly registry: Registry;

  admit(admission: Admission): Promise<Admitted>;
  /**
   * @param before the member on which the change was decided; if it differs by now, nothing is changed
   * @param event undefined for a renewal, which nobody decides
   */
  changeMember(before: Member, after: Member, event: AuditEvent | undefined): Promise<MemberChanged>;

  /** All join tokens that this origin knows, from memory. */
  joinTokens(): Iterable<StoredJoinToken>;
  joinToken(id: string): StoredJoinToken | undefined;
  addJoinToken(token: StoredJoinToken, event: AuditEvent): Promise<'added' | 'tooMany'>;
  removeJoinToken(
    id: string,
    eventOf: (token: StoredJoinToken) => AuditEvent,
  ): Promise<'removed' | 'unknown'>;

  /** Stores reports. @returns `stale` if a device's status has changed since its reports were judged; nothing is changed then */
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

  /** Makes the times when members were last heard durable. It is called now and then, so a crash loses some minutes of them. */
  saveSeen(): Promise<void>;
  /** Ids of gateways that report which devices they hear. */
  reportingGateways(): Promise<string[]>;
  /** @param changes whether each of these gateways reports presence now */
  saveReportingGateways(changes: ReadonlyMap<string, boolean>): Promise<void>;
}
