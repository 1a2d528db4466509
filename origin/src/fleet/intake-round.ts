import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import type { Report } from '@sitecast/shared/fleet';
import type { VerifySignature } from '@sitecast/shared/identity';
import { z } from 'zod';
import { forked, judge, type SignedReport } from './chain.ts';
import { type Outcome, outcomeAfter, outcomeSchema } from './outcome.ts';
import type { ProgressBoard } from './progress.ts';
import type { Room } from '../storage/room.ts';
import { readStored, type Registry } from './registry.ts';
import type { Chain, Status } from './status.ts';
import { keyOf, type Table, type Write } from './store.ts';

/** Reports of one chain that are kept to be looked at; older ones make way. */
export const MAX_KEPT_REPORTS = 200;
const SEQ_DIGITS = 16;

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

/** What one write to the disk will hold: states as they will be, read through to what is. */
export class Round {
  readonly #deps: IntakeDeps;
  readonly #nowIso: string;
  readonly #statuses = new Map<string, Status>();
  readonly #outcomes = new Map<string, OutcomeChange>();
  readonly #hashes = new Map<string, string>();
  readonly #writes = new Map<string, Write>();

  constructor(deps: IntakeDeps) {
    this.#deps = deps;
    this.#nowIso = new Date(deps.now()).toISOString();
  }

  chain(id: string, epoch: string): Chain | undefined {
    return this.#status(id)?.chains.find(chain => chain.epoch === epoch);
  }

  /** @returns the code of a refusal */
  async take(signed: SignedReport & { envelope: unknown }): Promise<ErrorCode | undefined> {
    const { report } = signed;
    const status = this.#status(report.id);
    let judged = judge(status, signed, this.#nowIso);
    if (judged.verdict === 'known' && status) {
      const kept = await this.#hashOf(report);
      if (kept !== undefined && kept !== signed.sha256) judged = forked(status, signed, this.#nowIso);
    }
    if (judged.status) this.#setStatus(judged.status);
    for (const epoch of judged.forgotten) await this.#forget(report.id, epoch);
    if (judged.verdict === 'gap') return 'SITECAST_REPORT_GAP';
    if (judged.verdict === 'fork') return 'SITECAST_REPORT_FORK';
    if (judged.verdict === 'accepted') await this.#accept(signed);
    return undefined;
  }

  liftQuarantine(id: string): void {
    const status = this.#status(id);
    if (status?.quarantinedAt === undefined) return;
    const { quarantinedAt: _quarantinedAt, ...rest } = status;
    this.#setStatus({ ...rest, returns: 0 });
  }

  /** Makes it durable, and only then known. */
  async end(): Promise<void> {
    const { registry, progress, onOutcomes } = this.#deps;
    if (this.#writes.size === 0) return;
    await registry.store.commit([...this.#writes.values()]);
    registry.setStatuses(this.#statuses.values());
    for (const id of this.#statuses.keys()) progress.clear(id);
    if (this.#outcomes.size > 0) onOutcomes([...this.#outcomes.values()]);
  }

  async #accept({ report, sha256, via, envelope }: SignedReport & { envelope: unknown }): Promise<void> {
    const { id, epoch, seq } = report;
    const key = reportKey(id, epoch, seq);
    const stored = { envelope, sha256, receivedAt: this.#nowIso, ...(via !== undefined && { via }) };
    this.#hashes.set(key, sha256);
    this.#write({ table: 'report', key, value: stored });
    if (seq > MAX_KEPT_REPORTS) {
      this.#write({ table: 'report', key: reportKey(id, epoch, seq - MAX_KEPT_REPORTS), value: undefined });
    }
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
    const { state: ended, attempt } = pending?.after ?? (await this.#outcomeOf(rolloutId, id)) ?? {};
    if (ended !== 'completed' || attempt === undefined) return;
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

  async #forget(id: string, epoch: string): Promise<void> {
    const range = { prefix: `${keyOf(id, epoch)}!`, limit: MAX_KEPT_REPORTS };
    for await (const [key] of this.#deps.registry.store.entries('report', range))
      this.#write({ table: 'report', key, value: undefined });
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

function reportKey(id: string, epoch: string, seq: number): string {
  return keyOf(id, epoch, String(seq).padStart(SEQ_DIGITS, '0'));
}
