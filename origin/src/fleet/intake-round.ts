import type { ErrorCode } from '@sitecast/shared/errors';
import { OVER_BUDGET, type Report } from '@sitecast/shared/fleet';
import type { VerifySignature } from '@sitecast/shared/identity';
import type { AuditEvent } from '../audit/audit.ts';
import type { Room } from '../room.ts';
import type { FleetStore, ReportPlace, StoredReport } from './fleet-store.ts';
import { hasCompletedOnce, type Outcome, outcomeAfter } from './outcome.ts';
import type { ProgressBoard } from './progress.ts';
import type { ReportBudgets } from './report-budgets.ts';
import {
  type Chain,
  CUT_TO_BYTES,
  forked,
  judge,
  keptBytesOf,
  type KeptReports,
  MAX_KEPT_BYTES,
  NONE_KEPT,
  type SignedReport,
  type Status,
  withoutReport,
  withReport,
} from './status.ts';

/** What changed for a rollout. */
export interface OutcomeChange {
  rolloutId: string;
  deviceId: string;
  before: Outcome | undefined;
  after: Outcome;
}

export interface IntakeDeps {
  store: FleetStore;
  progress: ProgressBoard;
  verifyById: VerifySignature;
  /** Whether there is such a rollout, of this product. */
  isRolloutOf: (rolloutId: string, product: string) => boolean;
  /** The rollout that goes on with a release to a product, the newest of several. */
  rolloutOf: (product: string, counter: number) => string | undefined;
  /** Called after the change is durable. */
  onOutcomes: (changes: readonly OutcomeChange[]) => void;
  budgets: ReportBudgets;
  /** Reports leave the reserve of the disk alone: their sender keeps them, and sends them again. */
  room: Room;
  now: () => number;
}

/** A report to take in. */
type TakenReport = SignedReport & { envelope: unknown; lengthBytes: number };

/** What one commit will hold: states as they will be, read through to what is stored. */
export class Round {
  readonly #deps: IntakeDeps;
  readonly #nowIso: string;
  /** Statuses as they were when they were first looked at. */
  readonly #judgedBy = new Map<string, Status | undefined>();
  readonly #statuses = new Map<string, { before: Status | undefined; after: Status }>();
  readonly #outcomes = new Map<string, OutcomeChange>();
  /** By place; undefined for a report that makes way. */
  readonly #reports = new Map<string, { place: ReportPlace; report: StoredReport | undefined }>();
  readonly #inventories = new Map<string, Record<string, unknown>>();
  readonly #events: AuditEvent[] = [];
  /** What devices have used of their budgets, bytes. */
  readonly #spent = new Map<string, number>();
  #accepted = 0;

  constructor(deps: IntakeDeps) {
    this.#deps = deps;
    this.#nowIso = new Date(deps.now()).toISOString();
  }

  chain(id: string, epoch: string): Chain | undefined {
    return this.#status(id)?.chains.find(chain => chain.epoch === epoch);
  }

  /** @returns the code of a refusal */
  async take(signed: TakenReport): Promise<ErrorCode | undefined> {
    const { report } = signed;
    const { budgets } = this.#deps;
    const status = this.#status(report.id);
    let judged = judge(status, signed, this.#nowIso);
    if (this.#isForLater(signed, judged.verdict)) {
      budgets.putOff(report.id, report);
      return OVER_BUDGET;
    }
    if (judged.verdict === 'known' && status) {
      const kept = await this.#hashOf(report);
      if (kept !== undefined && kept !== signed.sha256) judged = forked(status, signed, this.#nowIso);
    }
    if (judged.status) this.#setStatus(await this.#counted(judged.status));
    for (const epoch of judged.forgotten) await this.#forget(report.id, epoch);
    if (judged.verdict === 'gap') return 'SITECAST_REPORT_GAP';
    if (judged.verdict === 'fork') return 'SITECAST_REPORT_FORK';
    if (judged.verdict === 'accepted') await this.#accept(signed);
    return undefined;
  }

  /** Whether the device has used up its budget for now; or whether only a report that was put off for that is missing before this one. */
  #isForLater({ report, lengthBytes }: TakenReport, verdict: 'accepted' | 'known' | 'gap' | 'fork'): boolean {
    const { budgets } = this.#deps;
    const { id } = report;
    if (verdict === 'gap') return budgets.follows(id, report);
    return verdict === 'accepted' && this.spentOf(id) + lengthBytes > budgets.left(id);
  }

  /** How many reports continue their chains. */
  get acceptedCount(): number {
    return this.#accepted;
  }

  /** What a device has used of its budget in this round, bytes. */
  spentOf(id: string): number {
    return this.#spent.get(id) ?? 0;
  }

  /** Counts what is kept of a device, and drops the oldest reports beyond so many bytes. */
  async cut(id: string, maxBytes: number): Promise<void> {
    const status = this.#status(id);
    if (!status) return;
    const counted = await this.#counted(status);
    this.#setStatus(counted);
    if ((counted.kept?.bytes ?? 0) > maxBytes) await this.#cut(counted, Math.min(maxBytes, CUT_TO_BYTES));
  }

  /** @param event the audit entry of it */
  liftQuarantine(id: string, event: AuditEvent): void {
    const status = this.#status(id);
    if (status?.quarantinedAt === undefined) return;
    const { quarantinedAt: _quarantinedAt, ...rest } = status;
    this.#setStatus({ ...rest, returns: 0 });
    this.#events.push(event);
  }

  /**
   * Makes it durable, and only then known.
   * @returns false where a status has changed that the round has judged by: then nothing has become durable, and a new round is due
   */
  async end(): Promise<boolean> {
    const { store, progress, budgets, onOutcomes } = this.#deps;
    const reports = [...this.#reports.values()];
    const outcomes = [...this.#outcomes.values()];
    const taken = await store.takeIn({
      statuses: [...this.#statuses.values()],
      reports: reports.flatMap(({ place, report }) => (report ? [{ place, report }] : [])),
      droppedReports: reports.flatMap(({ place, report }) => (report ? [] : [place])),
      outcomes: outcomes.map(({ rolloutId, deviceId, after }) => ({ rolloutId, deviceId, outcome: after })),
      inventories: Array.from(this.#inventories, ([id, inventory]) => ({ id, inventory })),
      events: this.#events,
    });
    if (taken === 'stale') return false;
    for (const [id, bytes] of this.#spent) budgets.spend(id, bytes);
    for (const id of this.#statuses.keys()) progress.clear(id);
    if (outcomes.length > 0) onOutcomes(outcomes);
    return true;
  }

  async #accept({ report, sha256, via, envelope, lengthBytes }: TakenReport): Promise<void> {
    this.#accepted += 1;
    const { id } = report;
    const stored = { envelope, sha256, receivedAt: this.#nowIso, ...(via !== undefined && { via }) };
    this.#setReport(report, stored);
    this.#spent.set(id, this.spentOf(id) + lengthBytes);
    this.#deps.budgets.came(id, report);
    await this.#countKept(id, keptBytesOf(report, stored));
    if (report.inventory) this.#inventories.set(id, report.inventory);
    if (!report.rollout) await this.#countLateFallBack(report);
    else if (this.#isItsRollout(id, report.rollout.id)) await this.#countOutcome(report, report.rollout.id);
  }

  /** Counts a fall back long after success: the device may no longer know which rollout brought the release. */
  async #countLateFallBack(report: Report): Promise<void> {
    const { id, state, release, booted } = report;
    if (state !== 'rolledBack' || !release || booted?.release?.counter === release.counter) return;
    const { store, rolloutOf } = this.#deps;
    const product = store.registry.member(id)?.product;
    const rolloutId = product === undefined ? undefined : rolloutOf(product, release.counter);
    if (rolloutId === undefined) return;
    const pending = this.#outcomes.get(outcomeKey(rolloutId, id));
    const outcome = pending?.after ?? (await store.outcome(rolloutId, id));
    if (!outcome || !hasCompletedOnce(outcome)) return;
    const { attempt } = outcome;
    await this.#countOutcome({ ...report, rollout: { id: rolloutId, attempt } }, rolloutId);
  }

  /** A device may claim any rollout: outcomes of rollouts that don't exist would be kept for ever. */
  #isItsRollout(id: string, rolloutId: string): boolean {
    const { store, isRolloutOf } = this.#deps;
    const product = store.registry.member(id)?.product;
    return product !== undefined && isRolloutOf(rolloutId, product);
  }

  async #countOutcome(report: Report, rolloutId: string): Promise<void> {
    const key = outcomeKey(rolloutId, report.id);
    const pending = this.#outcomes.get(key);
    const before = pending ? pending.after : await this.#deps.store.outcome(rolloutId, report.id);
    const after = outcomeAfter(before, report, this.#nowIso);
    if (!after) return;
    this.#outcomes.set(key, {
      rolloutId,
      deviceId: report.id,
      before: pending ? pending.before : before,
      after,
    });
  }

  async #hashOf(place: ReportPlace): Promise<string | undefined> {
    const pending = this.#reports.get(placeKey(place))?.report;
    return (pending ?? (await this.#deps.store.report(place)))?.sha256;
  }

  /** Counts one more kept report. */
  async #countKept(id: string, lengthBytes: number): Promise<void> {
    const status = this.#status(id);
    if (!status) return;
    const kept = withReport(status.kept ?? NONE_KEPT, lengthBytes);
    const counted = { ...status, kept };
    this.#setStatus(counted);
    if (kept.bytes > MAX_KEPT_BYTES) await this.#cut(counted, CUT_TO_BYTES);
  }

  /** The status with the count of kept reports; an earlier version didn't count them. */
  async #counted(status: Status): Promise<Status> {
    if (status.kept) return status;
    let kept: KeptReports = NONE_KEPT;
    for await (const { lengthBytes } of this.#deps.store.keptReports(status.id))
      kept = withReport(kept, lengthBytes);
    return { ...status, kept };
  }

  /**
   * Drops the oldest reports, but never the newest of all. Outcomes of rollouts and the ends of chains are kept apart. The kept reports are
   * counted anew here: a database that was repaired may lack some.
   */
  async #cut(status: Status, maxBytes: number): Promise<void> {
    const found: KeptReport[] = [];
    for (const { epoch } of status.chains)
      for await (const report of this.#keptOf(status.id, epoch)) found.push(report);
    let kept: KeptReports = { ...NONE_KEPT, dropped: status.kept?.dropped ?? 0 };
    for (const { lengthBytes } of found) kept = withReport(kept, lengthBytes);
    for (const { place, lengthBytes } of found) {
      if (kept.bytes <= maxBytes || kept.reports <= 1) break;
      this.#setReport(place, undefined);
      kept = withoutReport(kept, lengthBytes);
    }
    this.#setStatus({ ...status, kept });
  }

  /** A chain's kept reports as they will be, oldest first. */
  async *#keptOf(id: string, epoch: string): AsyncGenerator<KeptReport> {
    for await (const kept of this.#deps.store.keptReports(id, epoch))
      if (!this.#reports.has(placeKey(kept.place))) yield kept;
    for (const { place, report } of this.#reports.values())
      if (report && place.id === id && place.epoch === epoch)
        yield { place, lengthBytes: keptBytesOf(place, report) };
  }

  async #forget(id: string, epoch: string): Promise<void> {
    const status = this.#status(id);
    let kept = status?.kept ?? NONE_KEPT;
    for await (const { place, lengthBytes } of this.#keptOf(id, epoch)) {
      this.#setReport(place, undefined);
      kept = withoutReport(kept, lengthBytes);
    }
    if (status) this.#setStatus({ ...status, kept });
  }

  #status(id: string): Status | undefined {
    const known = this.#statuses.get(id);
    if (known) return known.after;
    if (!this.#judgedBy.has(id)) this.#judgedBy.set(id, this.#deps.store.registry.status(id));
    return this.#judgedBy.get(id);
  }

  #setStatus(status: Status): void {
    this.#statuses.set(status.id, { before: this.#judgedBy.get(status.id), after: status });
  }

  #setReport({ id, epoch, seq }: ReportPlace, report: StoredReport | undefined): void {
    const place = { id, epoch, seq };
    this.#reports.set(placeKey(place), { place, report });
  }
}

interface KeptReport {
  place: ReportPlace;
  lengthBytes: number;
}

const placeKey = ({ id, epoch, seq }: ReportPlace): string => `${id} ${epoch} ${seq}`;
const outcomeKey = (rolloutId: string, deviceId: string): string => `${rolloutId} ${deviceId}`;
