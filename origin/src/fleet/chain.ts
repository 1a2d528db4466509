import { type Report, TOLD_AGAIN } from '@sitecast/shared/fleet';
import {
  type Anomaly,
  type Chain,
  type LastReport,
  MAX_ANOMALIES,
  MAX_CHAINS,
  type Status,
} from './status.ts';

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
  if (next === current) return accept({ ...status, chains, last: lastOf(signed, nowIso) });
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
  const last = lastOf(signed, nowIso);
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
  const next = { ...status, returns, last: lastOf(signed, nowIso) };
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

function lastOf({ report, via }: SignedReport, receivedAt: string): LastReport {
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
    ...(booted && { booted: { slot: booted.slot, ...(booted.release && { release: booted.release }) } }),
    ...(reason && { reason: { code: reason.code, message: reason.message } }),
    ...(via !== undefined && { via }),
  };
}
