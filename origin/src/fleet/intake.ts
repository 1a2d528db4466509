import { createHash } from 'node:crypto';
import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import { type Report, readReport } from '@sitecast/shared/fleet';
import type { VerifySignature } from '@sitecast/shared/identity';
import { z } from 'zod';
import { forked, judge, type SignedReport } from './chain.ts';
import type { Member } from './member.ts';
import { type Outcome, outcomeAfter, outcomeSchema } from './outcome.ts';
import type { ProgressBoard } from './progress.ts';
import { readStored, type Registry } from './registry.ts';
import type { Chain, Status } from './status.ts';
import { keyOf, type Write } from './store.ts';

/** Reports in one request. */
export const MAX_REPORTS = 200;
/** Reports of one chain that are kept to be looked at; older ones make way. */
export const MAX_KEPT_REPORTS = 200;
/** Reports that one write to the disk takes at the most, when many requests wait for it. */
const MAX_REPORTS_PER_COMMIT = 2000;
const SEQ_DIGITS = 16;

export interface RejectedReport {
  /** Its place in the request, from 0. */
  index: number;
  /** Those as far as they could be read. */
  id?: string;
  epoch?: string;
  seq?: number;
  code: ErrorCode;
}

/** A chain that a request touched, and how far it reaches. */
interface ChainEnd {
  id: string;
  epoch: string;
  /** 0 where nothing of it is there. */
  seq: number;
}

export interface TakenReports {
  chains: ChainEnd[];
  rejected: RejectedReport[];
}

/** What changed for a rollout. */
export interface OutcomeChange {
  rolloutId: string;
  deviceId: string;
  before: Outcome | undefined;
  after: Outcome;
}

interface IntakeDeps {
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
  now: () => number;
}

interface Job {
  /** A member whose quarantine ends. */
  lift?: string;
  reports: (SignedReport & { index: number; envelope: unknown })[];
  rejected: RejectedReport[];
  resolve: (taken: TakenReports) => void;
  reject: (error: unknown) => void;
}

const storedReportSchema = z.object({
  envelope: z.unknown(),
  sha256: z.string(),
  receivedAt: z.string(),
  via: z.string().exactOptional(),
});
export type StoredReport = z.infer<typeof storedReportSchema>;

/**
 * Takes reports in: exactly once, in the order of their chains, on the disk before anybody is told so. Requests that
 * come while the disk is busy share the next write.
 */
export class ReportIntake {
  readonly #deps: IntakeDeps;
  #waiting: Job[] = [];
  #isBusy = false;

  constructor(deps: IntakeDeps) {
    this.#deps = deps;
  }

  /**
   * @param sender who signed the request: a device sends its own reports, a gateway those of its site
   * @param envelopes at most MAX_REPORTS
   */
  take(sender: Member, envelopes: readonly unknown[]): Promise<TakenReports> {
    const reports: Job['reports'] = [];
    const rejected: RejectedReport[] = [];
    for (const [index, envelope] of envelopes.entries()) {
      const read = this.#read(sender, envelope);
      if ('code' in read) rejected.push({ index, ...read });
      else reports.push({ ...read, index, envelope });
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ reports, rejected, resolve, reject });
      void this.#work();
    });
  }

  /** An operator has looked: it's one machine again. */
  liftQuarantine(id: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ lift: id, reports: [], rejected: [], resolve: () => resolve(), reject });
      void this.#work();
    });
  }

  /** A chain's reports as they are kept, newest first. */
  async reportsOf(id: string, epoch: string, limit: number): Promise<StoredReport[]> {
    const found: StoredReport[] = [];
    const prefix = `${keyOf(id, epoch)}!`;
    const range = { prefix, isReversed: true, limit };
    for await (const [key, value] of this.#deps.registry.store.entries('report', range))
      found.push(readStored('report', key, storedReportSchema, value));
    return found;
  }

  /** Resolves when nothing is being taken in any more. */
  async idle(): Promise<void> {
    while (this.#isBusy) await new Promise(resolve => setImmediate(resolve));
  }

  #read(sender: Member, envelope: unknown): SignedReport | Omit<RejectedReport, 'index'> {
    let known = {};
    try {
      const unverified = readReport(envelope);
      const { id, epoch, seq } = unverified.document;
      known = { id, epoch, seq };
      this.#checkMay(sender, id);
      const report = unverified.verify([id], this.#deps.verifyById);
      const sha256 = createHash('sha256').update(unverified.payload).digest('hex');
      return { report, sha256, via: sender.id === id ? undefined : sender.id };
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      return { ...known, code: error.code };
    }
  }

  #checkMay(sender: Member, id: string): void {
    const device = this.#deps.registry.member(id);
    if (!device) throw new SitecastError('forbidden', 'SITECAST_DEVICE_UNKNOWN', 'not enrolled');
    if (device.revokedAt !== undefined)
      throw new SitecastError('forbidden', 'SITECAST_DEVICE_REVOKED', 'revoked');
    if (id === sender.id) return;
    if (sender.kind !== 'gateway')
      throw new SitecastError('forbidden', 'SITECAST_REPORT_NOT_OWN', "another's report");
    if (sender.site !== device.site)
      throw new SitecastError('forbidden', 'SITECAST_REPORT_FOREIGN_SITE', "another site's report");
  }

  async #work(): Promise<void> {
    if (this.#isBusy) return;
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      const jobs = this.#nextJobs();
      try {
        const taken = await this.#commit(jobs);
        for (const [at, job] of jobs.entries()) job.resolve(taken[at] ?? { chains: [], rejected: [] });
      } catch (error) {
        for (const job of jobs) job.reject(error);
      }
    }
    this.#isBusy = false;
  }

  #nextJobs(): Job[] {
    let count = 0;
    let reports = 0;
    for (const job of this.#waiting) {
      reports += job.reports.length;
      if (count > 0 && reports > MAX_REPORTS_PER_COMMIT) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  async #commit(jobs: readonly Job[]): Promise<TakenReports[]> {
    const round = new Round(this.#deps);
    const taken: TakenReports[] = [];
    for (const { lift, reports, rejected } of jobs) {
      if (lift !== undefined) round.liftQuarantine(lift);
      const refused = [...rejected];
      const touched = new Map<string, ChainEnd>();
      for (const signed of reports) {
        const { id, epoch, seq } = signed.report;
        const code = await round.take(signed);
        if (code !== undefined) refused.push({ index: signed.index, id, epoch, seq, code });
        touched.set(keyOf(id, epoch), { id, epoch, seq: 0 });
      }
      for (const end of touched.values()) end.seq = round.chain(end.id, end.epoch)?.seq ?? 0;
      refused.sort((one, other) => one.index - other.index);
      taken.push({ chains: [...touched.values()], rejected: refused });
    }
    await round.end();
    return taken;
  }
}

/** What one write to the disk will hold: states as they will be, read through to what is. */
class Round {
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
    const key = keyOf(rolloutId, deviceId);
    const stored = await registry.store.get('outcome', key);
    return stored === undefined ? undefined : readStored('outcome', key, outcomeSchema, stored);
  }

  async #hashOf({ id, epoch, seq }: Report): Promise<string | undefined> {
    const key = reportKey(id, epoch, seq);
    const pending = this.#hashes.get(key);
    if (pending !== undefined) return pending;
    const stored = await this.#deps.registry.store.get('report', key);
    return stored === undefined ? undefined : readStored('report', key, storedReportSchema, stored).sha256;
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

function reportKey(id: string, epoch: string, seq: number): string {
  return keyOf(id, epoch, String(seq).padStart(SEQ_DIGITS, '0'));
}
