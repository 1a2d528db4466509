import { SitecastError } from '@sitecast/shared/errors';
import { readReport, type Report } from '@sitecast/shared/fleet';
import { Receiver } from '@sitecast/shared/http-signature';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import {
  FakeServer,
  fieldOf,
  listOf,
  type OriginRecords,
  type SiteRequest,
} from '@sitecast/shared/testing/origin';

const FORGED = { assignment: { payloadType: 'x', payload: '', signatures: [] } };

/** A gateway for tests: the site API of devices over real HTTP, answered from an origin's records. It can misbehave. */
export class FakeGateway extends FakeServer {
  readonly origin: OriginRecords;
  protected override readonly receiver = new Receiver(new Identity(KeyPair.generate()).id);
  /** Answers a request for a lease; undefined: it knows no leases. */
  lease: (() => { granted: boolean; retryAfterMs?: number; heldBy?: unknown }) | undefined;
  /** A problem (RFC 9457) to answer instead. */
  leaseProblem: { code: string; detail: string } | undefined;
  /** Why a report is refused for its content; undefined: it is taken. */
  judge: (report: Report) => string | undefined = () => undefined;
  /** Refuses each report by itself; or, as gateways of the first release do, the whole request. */
  refuses: 'each' | 'whole' = 'each';
  /** Seconds after which it says that it takes what it refuses. */
  retryAfterS: number | undefined;
  /** Says that it takes reports, and passes neither reports nor acknowledgements on. */
  swallowsReports = false;
  /** Its answer about how devices come to a release; undefined: it doesn't know the question. */
  way: unknown;
  /** Its answer about every device, whatever the origin does. */
  ofDevices: 'pending' | 'forged' | undefined;
  /** Earlier refusals that it adds to its answers to reports. */
  rejectedEarlier: object[] = [];
  readonly progress: unknown[] = [];

  private constructor(origin: OriginRecords) {
    super(origin.fleet);
    this.origin = origin;
  }

  get id(): string {
    return this.receiver.name;
  }

  static async open(origin: OriginRecords, port = 0): Promise<FakeGateway> {
    const gateway = new FakeGateway(origin);
    await gateway.listen(port);
    return gateway;
  }

  protected override async answerSite({ method, path, json, send }: SiteRequest): Promise<void> {
    if (method === 'GET') await this.#answerGet(path, send);
    else if (path === 'enrolments') await this.#answerEnrolment(json, send);
    else if (path === 'reports') {
      const rejected = this.swallowsReports ? [] : this.#takeReports(listOf(json, 'reports'));
      send(202, rejected.length > 0 ? { rejected } : {});
    } else if (path === 'progress') {
      this.progress.push(json);
      send(202, {});
    } else if (path === 'leases') this.#answerLease(send);
    else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #answerGet(path: string, send: SiteRequest['send']): Promise<void> {
    const [kind, id = ''] = path.split('/');
    if (path === 'gateway') send(200, { id: this.id });
    else if (kind === 'ways' && this.way !== undefined) send(200, { way: this.way });
    else if (kind === 'assignments') await this.#answerAssignment(id, send);
    else if (kind === 'acknowledgements') await this.#answerAcknowledgement(id, send);
    else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  #answerLease(send: SiteRequest['send']): void {
    if (this.leaseProblem) send(403, this.leaseProblem);
    else if (this.lease) send(200, this.lease());
    else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #answerAssignment(id: string, send: SiteRequest['send']): Promise<void> {
    const assignment = this.ofDevices ? undefined : await this.origin.assignmentOf(id);
    if (this.ofDevices === 'forged') send(200, FORGED);
    else if (assignment) send(200, { assignment });
    else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #answerAcknowledgement(id: string, send: SiteRequest['send']): Promise<void> {
    const acknowledgement = this.swallowsReports ? undefined : await this.origin.acknowledgementOf(id);
    if (acknowledgement) send(200, { acknowledgement });
    else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #answerEnrolment(json: unknown, send: SiteRequest['send']): Promise<void> {
    const assignment = this.ofDevices ? undefined : await this.origin.enrol(fieldOf(json, 'envelope'));
    if (this.ofDevices === 'forged') send(200, FORGED);
    else if (assignment) send(200, { assignment });
    else send(202, { state: 'pending' });
  }

  /** @returns the reports that were refused */
  #takeReports(envelopes: readonly unknown[]): object[] {
    const rejected: object[] = [];
    const codes = envelopes.map(envelope => this.judge(readReport(envelope).document));
    const whole = this.refuses === 'whole' ? codes.find(code => code !== undefined) : undefined;
    if (whole !== undefined)
      throw new SitecastError('badInput', `SITECAST_${whole}`, 'the request is refused', {
        data: { retryAfterS: this.retryAfterS },
      });
    for (const [index, envelope] of envelopes.entries()) {
      const code = codes[index];
      if (code === undefined) this.origin.take(envelope);
      else rejected.push({ index, code: `SITECAST_${code}`, retryAfterS: this.retryAfterS });
    }
    return [...rejected, ...this.rejectedEarlier];
  }
}
