import { createHash } from 'node:crypto';
import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import { OVER_BUDGET, readReport, reportsRetryAfterS } from '@sitecast/shared/fleet';
import type { AuditEvent } from '../audit/audit.ts';
import { demandRoom } from '../room.ts';
import type { StoredReport } from './fleet-store.ts';
import { type IntakeDeps, Round } from './intake-round.ts';
import type { Member } from './member.ts';
import { MAX_KEPT_BYTES, type SignedReport } from './status.ts';

/** Devices whose kept reports one commit cuts. */
const CUTS_A_COMMIT = 50;
/** Devices whose kept reports are counted at one time: an earlier version didn't count them. */
const MAX_COUNTED_AT_ONCE = 500;
/** To which part of the total reports are cut: so that not every report begins a cut. */
const TIDY_TO = 0.9;
/** Reports in one commit at the most, when many requests wait for it. */
const MAX_REPORTS_PER_COMMIT = 2000;
/** How often a batch of reports is judged anew that another origin has come before. */
const MAX_ATTEMPTS = 10;

export interface RejectedReport {
  /** The report's place in the request, from 0. */
  index: number;
  /** These as far as they could be read. */
  id?: string;
  epoch?: string;
  seq?: number;
  code: ErrorCode;
  /** Where the report is to come again later: when. */
  retryAfterS?: number;
}

/** A chain that a request touched, and how far it reaches. */
interface ChainEnd {
  id: string;
  epoch: string;
  /** 0 where no report of it is there. */
  seq: number;
}

export interface TakenReports {
  chains: ChainEnd[];
  rejected: RejectedReport[];
}

type SentReport = SignedReport & { index: number; envelope: unknown; lengthBytes: number };

interface Job {
  /** Something else than reports; it may use the reserve of the disk. */
  act?: (round: Round) => void | Promise<void>;
  reports: SentReport[];
  rejected: RejectedReport[];
  resolve: (taken: TakenReports) => void;
  reject: (error: unknown) => void;
}

/**
 * Takes reports in: exactly once, in the order of their chains, durable before the sender is told so. Requests that come while
 * the disk is busy share the next commit.
 */
export class ReportIntake {
  readonly #deps: IntakeDeps & { maxKeptBytes: number };
  #waiting: Job[] = [];
  #isBusy = false;
  #accepted = 0;
  /** By code: there are few, and no sender chooses them. */
  readonly #refused = new Map<ErrorCode, number>();

  /** @param deps.maxKeptBytes what is kept of all reports together, about */
  constructor(deps: IntakeDeps & { maxKeptBytes: number }) {
    this.#deps = deps;
  }

  /**
   * @param sender who signed the request: a device sends its own reports, a gateway those of its site
   * @param envelopes at most MAX_REPORTS_PER_REQUEST
   */
  take(sender: Member, envelopes: readonly unknown[]): Promise<TakenReports> {
    const reports: Job['reports'] = [];
    const rejected: RejectedReport[] = [];
    for (const [index, envelope] of envelopes.entries()) {
      const read = this.#read(sender, envelope);
      if ('code' in read) rejected.push({ index, ...read });
      else
        reports.push({ ...read, index, envelope, lengthBytes: Buffer.byteLength(JSON.stringify(envelope)) });
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ reports, rejected, resolve, reject });
      void this.#work();
    });
  }

  /** An operator has looked: it is one machine again. @param event is recorded where it was in quarantine */
  liftQuarantine(id: string, event: AuditEvent): Promise<void> {
    return this.#act(round => round.liftQuarantine(id, event));
  }

  #act(act: (round: Round) => void | Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ act, reports: [], rejected: [], resolve: () => resolve(), reject });
      void this.#work();
    });
  }

  /** What is kept of all reports, what may be kept, and how many reports were put off since the start. */
  get totals(): { keptBytes: number; maxKeptBytes: number; dropped: number; putOffs: number } {
    const { store, maxKeptBytes, budgets } = this.#deps;
    const { bytes, dropped } = store.registry.kept;
    return { keptBytes: bytes, maxKeptBytes, dropped, putOffs: budgets.putOffs };
  }

  /** Reports that became durable, and refused ones by code, since the start. One that comes again counts as neither. */
  get counted(): { accepted: number; refused: ReadonlyMap<ErrorCode, number> } {
    return { accepted: this.#accepted, refused: this.#refused };
  }

  /**
   * Keeps to the total: where it is exceeded, the devices with the most kept reports lose their oldest ones, down to equal shares. Also counts
   * what an earlier version has kept, some devices at a time.
   */
  async tidy(): Promise<void> {
    const {
      store: { registry },
      maxKeptBytes,
    } = this.#deps;
    const uncounted = registry.uncounted(MAX_COUNTED_AT_ONCE);
    await this.#cutEach(uncounted, MAX_KEPT_BYTES, () => false);
    if (registry.kept.bytes <= maxKeptBytes) return;
    const target = maxKeptBytes * TIDY_TO;
    const share = Math.floor(target / Math.max(1, registry.kept.devices));
    await this.#cutEach(registry.keepingMoreThan(share), share, () => registry.kept.bytes <= target);
  }

  async #cutEach(ids: readonly string[], maxBytes: number, isEnough: () => boolean): Promise<void> {
    for (let at = 0; at < ids.length && !isEnough(); at += CUTS_A_COMMIT) {
      const some = ids.slice(at, at + CUTS_A_COMMIT);
      await this.#act(async round => {
        for (const id of some) await round.cut(id, maxBytes);
      });
    }
  }

  /** A chain's reports as they are kept, newest first. */
  reportsOf(id: string, epoch: string, limit: number): Promise<StoredReport[]> {
    return this.#deps.store.newestReports(id, epoch, limit);
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
    const device = this.#deps.store.registry.member(id);
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
      const jobs = await this.#affordable(this.#nextJobs());
      try {
        const taken = await this.#commit(jobs);
        for (const [at, job] of jobs.entries()) job.resolve(taken[at] ?? { chains: [], rejected: [] });
      } catch (error) {
        for (const job of jobs) job.reject(error);
      }
    }
    this.#isBusy = false;
  }

  /** Refuses reports where the disk has no room for them. Acts of operators may use the reserve. */
  async #affordable(jobs: Job[]): Promise<Job[]> {
    try {
      if (jobs.some(({ act }) => act === undefined)) await demandRoom(this.#deps.room);
      return jobs;
    } catch (error) {
      for (const { act, reject } of jobs) if (act === undefined) reject(error);
      return jobs.filter(({ act }) => act !== undefined);
    }
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
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const taken = await this.#attempt(jobs);
      if (taken) return taken;
    }
    throw new Error('statuses have changed as often as reports were judged by them');
  }

  /** @returns undefined where another origin has taken reports of the same devices in meanwhile */
  async #attempt(jobs: readonly Job[]): Promise<TakenReports[] | undefined> {
    const round = new Round(this.#deps);
    const taken: TakenReports[] = [];
    for (const { act, reports, rejected } of jobs) {
      await act?.(round);
      const refused = [...rejected];
      const putOff: SentReport[] = [];
      const touched = new Map<string, ChainEnd>();
      for (const signed of reports) {
        const { id, epoch, seq } = signed.report;
        const code = await round.take(signed);
        if (code === OVER_BUDGET) putOff.push(signed);
        else if (code !== undefined) refused.push({ index: signed.index, id, epoch, seq, code });
        touched.set(`${id} ${epoch}`, { id, epoch, seq: 0 });
      }
      for (const end of touched.values()) end.seq = round.chain(end.id, end.epoch)?.seq ?? 0;
      refused.push(...this.#later(putOff, round));
      refused.sort((one, other) => one.index - other.index);
      taken.push({ chains: [...touched.values()], rejected: refused });
    }
    if (!(await round.end())) return undefined;
    this.#accepted += round.acceptedCount;
    for (const { rejected } of taken)
      for (const { code } of rejected) this.#refused.set(code, (this.#refused.get(code) ?? 0) + 1);
    return taken;
  }

  /** The rejections of reports that were put off: each tells its device when to send them again. */
  #later(putOff: readonly SentReport[], round: Round): RejectedReport[] {
    const bytesOf = new Map<string, number[]>();
    for (const { report, lengthBytes } of putOff)
      bytesOf.set(report.id, [...(bytesOf.get(report.id) ?? []), lengthBytes]);
    return putOff.map(({ index, report: { id, epoch, seq } }) => {
      const waitS = (bytes: number): number => this.#deps.budgets.waitS(id, bytes + round.spentOf(id));
      const retryAfterS = reportsRetryAfterS(bytesOf.get(id) ?? [], waitS);
      return { index, id, epoch, seq, code: OVER_BUDGET, retryAfterS };
    });
  }
}
