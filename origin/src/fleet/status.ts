import { ANOMALY_KINDS } from '@sitecast/shared/api';
import { DELTA_INVENTORY, DEVICE_STATES, type Report, TOLD_AGAIN } from '@sitecast/shared/fleet';
import { z } from 'zod';

/** Chains that are remembered of one device; a device begins a new one when it has lost its data. */
export const MAX_CHAINS = 8;
/** Anomalies that are kept of one device; older ones make way. */
export const MAX_ANOMALIES = 16;

/** Reports of one device that are kept to be looked at, bytes; beyond that the oldest make way. */
export const MAX_KEPT_BYTES = 256 * 1024;
/** To how many bytes they are cut then: not with every report anew. */
export const CUT_TO_BYTES = 192 * 1024;
/** What a report takes besides its id, its epoch and its value, bytes: its number, and what parts them. */
const PLACE_BYTES = 18;

const chainSchema = z.object({
  epoch: z.string(),
  /** Every report up to this number has come. */
  seq: z.int().min(1),
  /** SHA-256 of the payload of the report with that number. */
  head: z.string(),
  /** Times of its first and its newest report, by the device's clock and then by the origin's. */
  firstAt: z.string(),
  lastAt: z.string(),
  begunAt: z.string(),
  receivedAt: z.string(),
  /** Timestamp version of its first report, where that report says that reports of the chain before were refused on their way. */
  toldAgainVersion: z.int().exactOptional(),
});
export type Chain = z.infer<typeof chainSchema>;

const anomalySchema = z.object({
  kind: z.enum(ANOMALY_KINDS),
  at: z.string(),
  epoch: z.string(),
  seq: z.int(),
});
export type Anomaly = z.infer<typeof anomalySchema>;

const releaseSchema = z.object({ counter: z.int(), version: z.string() });

const lastReportSchema = z.object({
  state: z.enum(DEVICE_STATES),
  epoch: z.string(),
  seq: z.int(),
  /** The device's clock. */
  at: z.string(),
  /** The origin's. */
  receivedAt: z.string(),
  timestampVersion: z.int(),
  rollout: z.object({ id: z.string(), attempt: z.int() }).exactOptional(),
  release: releaseSchema.exactOptional(),
  booted: z
    .object({
      slot: z.enum(['A', 'B']),
      release: releaseSchema.exactOptional(),
      /** Set where the device says that this slot hasn't passed its trial, or failed later. */
      isConfirmed: z.literal(false).exactOptional(),
    })
    .exactOptional(),
  reason: z.object({ code: z.string(), message: z.string() }).exactOptional(),
  /** The gateway that brought it; absent where the device sent it directly. */
  via: z.string().exactOptional(),
  /** What the device can do with deltas: `readDeltaAbility` reads it. Absent where it says nothing. */
  deltas: z.string().exactOptional(),
});
type LastReport = z.infer<typeof lastReportSchema>;

/** Reports of one member that are kept to be looked at. */
const keptReportsSchema = z.object({
  reports: z.int(),
  /** What they take in the database, bytes. */
  bytes: z.int(),
  /** Older reports that made way. */
  dropped: z.int(),
});
export type KeptReports = z.infer<typeof keptReportsSchema>;

/** What a member's reports have told. */
export const statusSchema = z.object({
  id: z.string(),
  /** In the order of their beginnings: the last one is the current one. */
  chains: z.array(chainSchema).min(1),
  last: lastReportSchema,
  anomalies: z.array(anomalySchema),
  /** How often a chain before the current one went on. */
  returns: z.int(),
  /** When the member was first suspected to be several machines with one key. */
  quarantinedAt: z.string().exactOptional(),
  /** Absent until they are counted: earlier versions didn't count them. */
  kept: keptReportsSchema.exactOptional(),
});
export type Status = z.infer<typeof statusSchema>;

/** A report whose signature was found good. */
export interface SignedReport {
  report: Report;
  /** Of its payload's bytes. */
  sha256: string;
  /** The gateway that brought it. */
  via: string | undefined;
}

/**
 * What becomes of a report. `accepted`: it continues its chain. `known`: its place is at or below the chain's end, and the caller
 * compares it with the report that is kept there. A report with any other verdict is refused, and shown as an anomaly.
 */
export interface Judged {
  verdict: 'accepted' | 'known' | 'gap' | 'fork';
  /** The status after the report; undefined where nothing changed. */
  status: Status | undefined;
  /** Epochs whose reports are no longer of use. */
  forgotten: string[];
}

/**
 * The rules of report chains. Each report names the one before, so what is accepted is exactly what the device
 * said, in order, once.
 * @param status what is known of the device; undefined before its first report
 * @param nowIso the origin's clock
 */
export function judge(status: Status | undefined, signed: SignedReport, nowIso: string): Judged {
  const { report, sha256 } = signed;
  const chain = status?.chains.find(({ epoch }) => epoch === report.epoch);
  if (!status || !chain) {
    // A chain that begins with a later number: the reports before it are lost, at the device or here.
    if (report.seq !== 1 || report.previous !== null) return refuse(status, 'gap', signed, nowIso);
    return begin(status, signed, nowIso);
  }
  if (report.seq <= chain.seq) return { verdict: 'known', status: undefined, forgotten: [] };
  if (report.seq > chain.seq + 1) return refuse(status, 'gap', signed, nowIso);
  if (report.previous !== chain.head) return refuse(status, 'fork', signed, nowIso);
  const next: Chain = { ...chain, seq: report.seq, head: sha256, lastAt: report.at, receivedAt: nowIso };
  const chains = status.chains.map(known => (known === chain ? next : known));
  const current = chains.at(-1);
  if (next === current) return accept({ ...status, chains, last: lastOf(signed, nowIso, status.last) });
  return accept(takenUpAgain({ ...status, chains }, signed, nowIso));
}

/** For a report at the place of another one: the same number, and other bytes. */
export function forked(status: Status, signed: SignedReport, nowIso: string): Judged {
  return refuse(status, 'fork', signed, nowIso);
}

function begin(status: Status | undefined, signed: SignedReport, nowIso: string): Judged {
  const { report, sha256 } = signed;
  const chain: Chain = {
    epoch: report.epoch,
    seq: 1,
    head: sha256,
    firstAt: report.at,
    lastAt: report.at,
    begunAt: nowIso,
    receivedAt: nowIso,
    ...(report.reason?.code === TOLD_AGAIN && { toldAgainVersion: report.timestampVersion }),
  };
  const last = lastOf(signed, nowIso, status?.last);
  if (!status) return accept({ id: report.id, chains: [chain], last, anomalies: [], returns: 0 });
  const chains = [...status.chains, chain];
  const dropped = chains.splice(0, Math.max(0, chains.length - MAX_CHAINS));
  const next = { ...status, chains, last, anomalies: withAnomaly(status, 'epochChange', report, nowIso) };
  return { ...accept(next), forgotten: dropped.map(({ epoch }) => epoch) };
}

/**
 * A chain before the current one goes on. Once that is expected: a gateway without WAN held the old chain's last reports. Where it
 * happens again and again, with reports that were made after the newer chain began, two machines have one key.
 */
function takenUpAgain(status: Status, signed: SignedReport, nowIso: string): Status {
  const { report } = signed;
  const current = status.chains.at(-1);
  const isLate = current === undefined || Date.parse(report.at) <= Date.parse(current.firstAt);
  if (isLate || isToldAgain(status, report)) return status;
  // Several reports of the old chain in a row count as one return.
  const isNewTurn = status.last.epoch !== report.epoch;
  const returns = status.returns + (isNewTurn ? 1 : 0);
  const next = { ...status, returns, last: lastOf(signed, nowIso, status.last) };
  if (!isNewTurn) return next;
  return {
    ...next,
    anomalies: withAnomaly(status, 'interleaved', report, nowIso),
    ...(returns >= MIN_RETURNS_OF_CLONES && { quarantinedAt: status.quarantinedAt ?? nowIso }),
  };
}

/**
 * Whether the chain after this one says that it repeats reports of this one that were refused on their way. The gateway that refused
 * them can bring them later, in any order, and without a clock of its own the device dates them as if they were new. A report that knows
 * a newer timestamp than the next chain began with is new.
 */
function isToldAgain({ chains }: Status, { epoch, timestampVersion }: Report): boolean {
  const next = chains[chains.findIndex(chain => chain.epoch === epoch) + 1];
  return next?.toldAgainVersion !== undefined && timestampVersion <= next.toldAgainVersion;
}

/** A clock that was set back between two chains explains one return. */
const MIN_RETURNS_OF_CLONES = 2;

function refuse(
  status: Status | undefined,
  verdict: 'gap' | 'fork',
  { report }: SignedReport,
  nowIso: string,
): Judged {
  const refused: Judged = { verdict, status: undefined, forgotten: [] };
  if (!status) return refused;
  const isShown = status.anomalies.some(
    ({ kind, epoch, seq }) => kind === verdict && epoch === report.epoch && seq === report.seq,
  );
  if (isShown) return refused;
  const anomalies = withAnomaly(status, verdict, report, nowIso);
  // Two different reports at one place of one chain: the key and the chain were copied.
  const quarantine = verdict === 'fork' && { quarantinedAt: status.quarantinedAt ?? nowIso };
  return { ...refused, status: { ...status, anomalies, ...quarantine } };
}

function accept(status: Status): Judged {
  return { verdict: 'accepted', status, forgotten: [] };
}

function withAnomaly(status: Status, kind: Anomaly['kind'], report: Report, at: string): Anomaly[] {
  return [...status.anomalies, { kind, at, epoch: report.epoch, seq: report.seq }].slice(-MAX_ANOMALIES);
}

function lastOf({ report, via }: SignedReport, receivedAt: string, before?: LastReport): LastReport {
  const deltas = deltasOf(report, before);
  const { state, epoch, seq, at, timestampVersion, rollout, release, booted, reason } = report;
  return {
    state,
    epoch,
    seq,
    at,
    receivedAt,
    timestampVersion,
    ...(rollout && { rollout: { id: rollout.id, attempt: rollout.attempt } }),
    ...(release && { release }),
    ...(booted && { booted: bootedOf(booted) }),
    ...(reason && { reason: { code: reason.code, message: reason.message } }),
    ...(via !== undefined && { via }),
    ...(deltas !== undefined && { deltas }),
  };
}

const bootedOf = ({
  slot,
  release,
  isConfirmed,
}: NonNullable<Report['booted']>): NonNullable<LastReport['booted']> => ({
  slot,
  ...(release && { release }),
  ...(isConfirmed === false && { isConfirmed }),
});

/** A report that would have been too large comes without its inventory: what the one before said is still right. */
function deltasOf({ inventory }: Report, before: LastReport | undefined): string | undefined {
  if (!inventory) return before?.deltas;
  const said = inventory[DELTA_INVENTORY];
  return typeof said === 'string' ? said : undefined;
}

export const NONE_KEPT: KeptReports = { reports: 0, bytes: 0, dropped: 0 };

/** What a report takes in the database, bytes. */
export function keptBytesOf({ id, epoch }: Pick<Report, 'id' | 'epoch'>, report: unknown): number {
  return id.length + epoch.length + PLACE_BYTES + Buffer.byteLength(JSON.stringify(report));
}

export function withReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports + 1, bytes: bytes + lengthBytes, dropped };
}

export function withoutReport({ reports, bytes, dropped }: KeptReports, lengthBytes: number): KeptReports {
  return { reports: reports - 1, bytes: bytes - lengthBytes, dropped: dropped + 1 };
}
