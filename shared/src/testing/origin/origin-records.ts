import { createHash } from 'node:crypto';
import { SitecastError } from '../../errors.ts';
import { type Assignment, readEnrolment, readReport, type Report } from '../../fleet/index.ts';
import { assignmentFor } from '../../fleet/testing/index.ts';
import { type Envelope, fastVerifyById } from '../../identity/index.ts';
import type { FleetRepository } from './fleet-repository.ts';

/** The records of an origin, without a socket: assignments of devices and gateways, and their reports. */
export class OriginRecords {
  readonly fleet: FleetRepository;
  readonly assignments = new Map<string, Assignment>();
  /** The accepted reports in order of arrival. */
  readonly reports: Report[] = [];
  /** Reports that have the sequence number of another report, as those of a cloned device have. */
  readonly conflicts: Report[] = [];
  acceptsEnrolments: 'yes' | 'pending' | 'no' = 'yes';
  /** False: reports are accepted, but not acknowledged. */
  acknowledges = true;
  /** False: reports that don't continue the chain of their device are accepted, too. */
  checksChains = true;
  /** The hash of each report's payload, by id, epoch and seq. */
  readonly #payloads = new Map<string, string>();
  readonly #verify = fastVerifyById();

  constructor(fleet: FleetRepository) {
    this.fleet = fleet;
  }

  /** A copy that changes independently. */
  clone(): OriginRecords {
    const clone = new OriginRecords(this.fleet);
    for (const [id, assignment] of this.assignments) clone.assignments.set(id, assignment);
    clone.reports.push(...this.reports);
    for (const [key, payload] of this.#payloads) clone.#payloads.set(key, payload);
    return clone;
  }

  /** Stores and signs an assignment. Its serial is the next one unless `changes` has a serial. */
  assign({ id, ...changes }: Partial<Assignment> & { id: string }): Promise<Envelope> {
    const at = new Date(this.fleet.nowMs).toISOString();
    const serial = (this.assignments.get(id)?.serial ?? 0) + 1;
    const assignment = assignmentFor(id, { enrolledAt: at, issuedAt: at, serial, ...changes });
    this.assignments.set(id, assignment);
    return this.fleet.assign(id, assignment);
  }

  /** The assignment of a device, signed with the present key. */
  async assignmentOf(id: string): Promise<Envelope | undefined> {
    const assignment = this.assignments.get(id);
    return assignment && this.fleet.assign(id, assignment);
  }

  /**
   * @returns the assignment; undefined while an operator has to decide
   * @throws SITECAST_TOKEN_USED where enrolments are refused
   */
  async enrol(envelope: unknown): Promise<Envelope | undefined> {
    const unverified = readEnrolment(envelope);
    const { id } = unverified.document;
    const { kind, site } = unverified.verify([id], this.#verify);
    if (this.acceptsEnrolments === 'no')
      throw new SitecastError('forbidden', 'SITECAST_TOKEN_USED', 'it was used');
    if (this.acceptsEnrolments === 'pending' || this.assignments.has(id)) return this.assignmentOf(id);
    return this.assign({ id, kind, ...(site === undefined ? {} : { site }) });
  }

  /**
   * Stores a report once. A report that doesn't continue its chain is dropped without an error.
   * @throws SITECAST_DOCUMENT_UNTRUSTED for one that its device hasn't signed
   */
  take(envelope: unknown): void {
    const unverified = readReport(envelope);
    const { id, epoch, seq, previous } = unverified.document;
    const report = unverified.verify([id], this.#verify);
    const payload = createHash('sha256').update(unverified.payload).digest('hex');
    const known = this.#payloads.get(`${id} ${epoch} ${seq}`);
    if (known !== undefined) {
      if (known !== payload) this.conflicts.push(report);
      return;
    }
    const before = seq === 1 ? null : this.#payloads.get(`${id} ${epoch} ${seq - 1}`);
    if (this.checksChains && before !== previous) return;
    this.reports.push(report);
    this.#payloads.set(`${id} ${epoch} ${seq}`, payload);
  }

  /** The reports of a device, one epoch after the other. */
  reportsOf(id: string): Report[] {
    const reports = this.reports.filter(report => report.id === id);
    const epochs = new Set(reports.map(({ epoch }) => epoch));
    return [...epochs].flatMap(epoch => reports.filter(report => report.epoch === epoch));
  }

  /** Acknowledges the reports of an epoch up to the first missing one; by default of the newest epoch. */
  async acknowledgementOf(
    id: string,
    epoch = this.reportsOf(id).at(-1)?.epoch,
  ): Promise<Envelope | undefined> {
    if (epoch === undefined || !this.acknowledges) return undefined;
    let seq = 0;
    while (this.#payloads.has(`${id} ${epoch} ${seq + 1}`)) seq += 1;
    return this.fleet.acknowledge(id, epoch, seq);
  }
}
