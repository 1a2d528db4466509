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
 * What becomes of a report. `accepted`: it continues its chain. `known`: at or below the chain's end, whether it's
 * the same one is for whoever keeps them to compare. Else it's refused, and shown.
 */
export interface Judged {
  verdict: 'accepted' | 'known' | 'gap' | 'fork';
  /** After it; undefined where nothing changed. */
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
    // A chain that begins in the midst: what was before it is lost, here or there.
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

/** For a report that has the number of another one, or of the same with other bytes. */
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
 * A chain before the current one goes on. Once that's no wonder: a gateway without WAN held the old chain's last
 * reports. Again and again, and with reports that were made after the newer chain began, it's two machines.
 */
function takenUpAgain(status: Status, signed: SignedReport, nowIso: string): Status {
  const { report } = signed;
  const current = status.chains.at(-1);
  const isLate = current === undefined || Date.parse(report.at) <= Date.parse(current.firstAt);
  if (isLate || isToldAgain(status, report)) return status;
  // Judged by turns: several reports of the old chain in a row count once.
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
 * Whether the chain after this one says that it tells again what of this one was refused on its way. Who refused it can bring it
 * later, by turns, and a device without a clock of its own makes it look as if it had been made since. What knows a newer
 * timestamp than that chain began with was made since.
 */
function isToldAgain({ chains }: Status, { epoch, timestampVersion }: Report): boolean {
  const next = chains[chains.findIndex(chain => chain.epoch === epoch) + 1];
  return next?.toldAgainVersion !== undefined && timestampVersion <= next.toldAgainVersion;
}

/** One return may come of a clock that was set back between two chains. */
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
  // Two different reports with one place in one chain: the key and the chain were copied.
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
