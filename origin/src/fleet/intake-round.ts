import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import { OVER_BUDGET, type Report } from '@sitecast/shared/fleet';
import type { VerifySignature } from '@sitecast/shared/identity';
import { z } from 'zod';
import { forked, judge, type SignedReport } from './chain.ts';
import { hasCompletedOnce, type Outcome, outcomeAfter, outcomeSchema } from './outcome.ts';
import type { ProgressBoard } from './progress.ts';
import type { Room } from '../storage/room.ts';
import {
  CUT_TO_BYTES,
  keptBytesOf,
  MAX_KEPT_BYTES,
  NONE_KEPT,
  reportKey,
  withoutReport,
  withReport,
} from './kept-reports.ts';
import { readStored, type Registry } from './registry.ts';
import type { ReportBudgets } from './report-budgets.ts';
import type { Chain, KeptReports, Status } from './status.ts';
import { keyOf, type Table, type Write } from './store.ts';

/** What changed for a rollout. */
export interface OutcomeChange {
  rolloutId: string;
  deviceId: string;
  before: Outcome | undefined;
  after: Outcome;
}

export interface IntakeDeps {
  registry: Registry;
  progress: ProgressBoard;
  verifyById: VerifySignature;
  /** All outcomes of a rollout, where they are in memory; others are read from the store. */
  outcomesOf: (rolloutId: string) => ReadonlyMap<string, Outcome> | undefined;
  /** Whether there is such a rollout, of this product. */
  isRolloutOf: (rolloutId: string, product: string) => boolean;
  /** The rollout that goes on with a release to a product, the newest of several. */
  rolloutOf: (product: string, counter: number) => string | undefined;
  /** Told after the change is durable. */
  onOutcomes: (changes: readonly OutcomeChange[]) => void;
  budgets: ReportBudgets;
  /** Reports leave the reserve alone: whoever sent them keeps them, and sends them again. */
  room: Room;
  now: () => number;
}

export const storedReportSchema = z.object({
  envelope: z.unknown(),
  sha256: z.string(),
  receivedAt: z.string(),
  via: z.string().exactOptional(),
});
export type StoredReport = z.infer<typeof storedReportSchema>;

/** A report to take in. */
type TakenReport = SignedReport & { envelope: unknown; lengthBytes: number };

/** What one write to the disk will hold: states as they will be, read through to what is. */
export class Round {
  readonly #deps: IntakeDeps;
  readonly #nowIso: string;
  readonly #statuses = new Map<string, Status>();
  readonly #outcomes = new Map<string, OutcomeChange>();
  readonly #hashes = new Map<string, string>();
  readonly #writes = new Map<string, Write>();
  /** What devices have sent of their budgets, bytes. */
  readonly #spent = new Map<string, number>();

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

  /** Whether its device has sent as much as it may for now; or whether nothing but such a report is missing before it. */
  #isForLater({ report, lengthBytes }: TakenReport, verdict: 'accepted' | 'known' | 'gap' | 'fork'): boolean {
    const { budgets } = this.#deps;
    const { id } = report;
    if (verdict === 'gap') return budgets.follows(id, report);
    return verdict === 'accepted' && this.spentOf(id) + lengthBytes > budgets.left(id);
  }

  /** Of a device's budget in this round, bytes. */
  spentOf(id: string): number {
    return this.#spent.get(id) ?? 0;
  }

  /** Counts what is kept of a device, and lets the oldest go beyond so many bytes. */
  async cut(id: string, maxBytes: number): Promise<void> {
    const status = this.#status(id);
    if (!status) return;
    const counted = await this.#counted(status);
    this.#setStatus(counted);
    if ((counted.kept?.bytes ?? 0) > maxBytes) await this.#cut(counted, Math.min(maxBytes, CUT_TO_BYTES));
  }

  liftQuarantine(id: string): void {
    const status = this.#status(id);
    if (status?.quarantinedAt === undefined) return;
    const { quarantinedAt: _quarantinedAt, ...rest } = status;
    this.#setStatus({ ...rest, returns: 0 });
  }

  /** Makes it durable, and only then known. */
  async end(): Promise<void> {
    const { registry, progress, budgets, onOutcomes } = this.#deps;
    if (this.#writes.size === 0) return;
    await registry.store.commit([...this.#writes.values()]);
    for (const [id, bytes] of this.#spent) budgets.spend(id, bytes);
    registry.setStatuses(this.#statuses.values());
    for (const id of this.#statuses.keys()) progress.clear(id);
    if (this.#outcomes.size > 0) onOutcomes([...this.#outcomes.values()]);
  }

  async #accept({ report, sha256, via, envelope, lengthBytes }: TakenReport): Promise<void> {
    const { id, epoch, seq } = report;
    const key = reportKey(id, epoch, seq);
    const stored = { envelope, sha256, receivedAt: this.#nowIso, ...(via !== undefined && { via }) };
    this.#hashes.set(key, sha256);
    this.#write({ table: 'report', key, value: stored });
    this.#spent.set(id, this.spentOf(id) + lengthBytes);
    this.#deps.budgets.came(id, report);
    await this.#countKept(id, keptBytesOf(key, stored));
    if (report.inventory) this.#write({ table: 'inventory', key: id, value: report.inventory });
    if (!report.rollout) await this.#countLateFallBack(report);
    else if (this.#isItsRollout(id, report.rollout.id)) await this.#countOutcome(report, report.rollout.id);
  }

  /** Long after success a device may no longer know by which rollout it got what it fell back from. */
  async #countLateFallBack(report: Report): Promise<void> {
    const { id, state, release, booted } = report;
    if (state !== 'rolledBack' || !release || booted?.release?.counter === release.counter) return;
    const { registry, rolloutOf } = this.#deps;
    const product = registry.member(id)?.product;
    const rolloutId = product === undefined ? undefined : rolloutOf(product, release.counter);
    if (rolloutId === undefined) return;
    const pending = this.#outcomes.get(keyOf(rolloutId, id));
    const outcome = pending?.after ?? (await this.#outcomeOf(rolloutId, id));
    if (!outcome || !hasCompletedOnce(outcome)) return;
    const { attempt } = outcome;
    await this.#countOutcome({ ...report, rollout: { id: rolloutId, attempt } }, rolloutId);
  }

  /** A device may claim anything: what is made up would be kept for ever. */
  #isItsRollout(id: string, rolloutId: string): boolean {
    const { registry, isRolloutOf } = this.#deps;
    const product = registry.member(id)?.product;
    return product !== undefined && isRolloutOf(rolloutId, product);
  }

  async #countOutcome(report: Report, rolloutId: string): Promise<void> {
    const key = keyOf(rolloutId, report.id);
    const pending = this.#outcomes.get(key);
    const before = pending ? pending.after : await this.#outcomeOf(rolloutId, report.id);
    const after = outcomeAfter(before, report, this.#nowIso);
    if (!after) return;
    this.#outcomes.set(key, {
      rolloutId,
      deviceId: report.id,
      before: pending ? pending.before : before,
      after,
    });
    this.#write({ table: 'outcome', key, value: after });
  }

  async #outcomeOf(rolloutId: string, deviceId: string): Promise<Outcome | undefined> {
    const { outcomesOf, registry } = this.#deps;
    const known = outcomesOf(rolloutId);
    if (known) return known.get(deviceId);
    return await readIfReadable(registry, 'outcome', keyOf(rolloutId, deviceId), outcomeSchema);
  }

  async #hashOf({ id, epoch, seq }: Report): Promise<string | undefined> {
    const key = reportKey(id, epoch, seq);
    const pending = this.#hashes.get(key);
    if (pending !== undefined) return pending;
    return (await readIfReadable(this.#deps.registry, 'report', key, storedReportSchema))?.sha256;
  }

  /** One more is kept. */
  async #countKept(id: string, lengthBytes: number): Promise<void> {
    const status = this.#status(id);
    if (!status) return;
    const kept = withReport(status.kept ?? NONE_KEPT, lengthBytes);
    const counted = { ...status, kept };
    this.#setStatus(counted);
    if (kept.bytes > MAX_KEPT_BYTES) await this.#cut(counted, CUT_TO_BYTES);
  }

  /** With what is kept of it, which an earlier version didn't count. */
  async #counted(status: Status): Promise<Status> {
    if (status.kept) return status;
    let kept: KeptReports = NONE_KEPT;
    for await (const [key, value] of this.#deps.registry.store.entries('report', { prefix: `${status.id}!` }))
      kept = withReport(kept, keptBytesOf(key, value));
    return { ...status, kept };
  }

  /**
   * The oldest make way, but for the newest of all. What rollouts judge by is kept apart, and so is where chains end. They are counted
   * anew by that: a database that was repaired may lack some.
   */
  async #cut(status: Status, maxBytes: number): Promise<void> {
    const found: [key: string, lengthBytes: number][] = [];
    for (const { epoch } of status.chains)
      for await (const report of this.#keptOf(status.id, epoch)) found.push(report);
    let kept: KeptReports = { ...NONE_KEPT, dropped: status.kept?.dropped ?? 0 };
    for (const [, lengthBytes] of found) kept = withReport(kept, lengthBytes);
    for (const [key, lengthBytes] of found) {
      if (kept.bytes <= maxBytes || kept.reports <= 1) break;
      this.#write({ table: 'report', key, value: undefined });
      kept = withoutReport(kept, lengthBytes);
    }
    this.#setStatus({ ...status, kept });
  }

  /** A chain's kept reports as they will be, oldest first. */
  async *#keptOf(id: string, epoch: string): AsyncGenerator<[key: string, lengthBytes: number]> {
    const prefix = `${keyOf(id, epoch)}!`;
    for await (const [key, value] of this.#deps.registry.store.entries('report', { prefix }))
      if (!this.#writes.has(keyOf('report', key))) yield [key, keptBytesOf(key, value)];
    for (const { table, key, value } of this.#writes.values())
      if (table === 'report' && value !== undefined && key.startsWith(prefix))
        yield [key, keptBytesOf(key, value)];
  }

  async #forget(id: string, epoch: string): Promise<void> {
    const status = this.#status(id);
    let kept = status?.kept ?? NONE_KEPT;
    for await (const [key, lengthBytes] of this.#keptOf(id, epoch)) {
      this.#write({ table: 'report', key, value: undefined });
      kept = withoutReport(kept, lengthBytes);
    }
    if (status) this.#setStatus({ ...status, kept });
  }

  #status(id: string): Status | undefined {
    return this.#statuses.get(id) ?? this.#deps.registry.status(id);
  }

  #setStatus(status: Status): void {
    this.#statuses.set(status.id, status);
    this.#write({ table: 'status', key: status.id, value: status });
  }

  #write(write: Write): void {
    this.#writes.set(keyOf(write.table, write.key), write);
  }
}

/**
 * Undefined for what isn't there, and for what can't be read any more: one damaged record of one device mustn't keep the reports
 * of all others out, and the next report says it anew.
 */
async function readIfReadable<T>(
  { store }: Registry,
  table: Table,
  key: string,
  schema: z.ZodType<T>,
): Promise<T | undefined> {
  const stored = await store.get(table, key);
  try {
    return stored === undefined ? undefined : readStored(table, key, schema, stored);
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_STATE_DAMAGED') return undefined;
    throw error;
  }
}
