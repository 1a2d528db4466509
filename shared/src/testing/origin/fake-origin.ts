import { type Presence, presenceSchema } from '../../api/index.ts';
import { formatJoinToken, readReport, type Report, type Rollout } from '../../fleet/index.ts';
import type { Envelope } from '../../identity/index.ts';
import { KeyPair } from '../../signing/index.ts';
import { FakeServer, type SiteRequest } from './fake-server.ts';
import { FleetRepository, type PublishedImage } from './fleet-repository.ts';
import { OriginRecords } from './origin-records.ts';

const CHUNK_BYTES = 16 * 1024;

/** An origin for tests: a correctly signed repository and the site API of gateways, over real sockets. */
export class FakeOrigin extends FakeServer {
  readonly records: OriginRecords;
  /** Codes with which reports are refused for good, by the report's sequence number. */
  readonly rejects = new Map<number, string>();
  /** The status of the whole answer where a request contains this report; undefined: each report gets its own answer. */
  refusesWhole: (report: Report) => number | undefined = () => undefined;
  /** Refuses these reports by their position in the request, as the origin does with unreadable ones. */
  cannotRead: (report: Report) => boolean = () => false;
  /** After how many seconds this report may come again, because its device has used up its budget. */
  putsOff: (report: Report) => number | undefined = () => undefined;
  /** The presence reports of gateways; undefined: an origin of an earlier version, without this route. */
  presence: Presence[] | undefined = [];

  private constructor(repository: FleetRepository) {
    super(repository);
    this.records = new OriginRecords(repository);
    this.records.checksChains = false;
  }

  static async start(nowMs = Date.now()): Promise<FakeOrigin> {
    const origin = new FakeOrigin(await FleetRepository.create(nowMs));
    await origin.listen();
    return origin;
  }

  /** A new join token that names this origin's root. */
  joinToken(): string {
    return formatJoinToken(this.url, this.repository.rootSha256, KeyPair.generate());
  }

  /** Publishes a release, its chunks of equal lengths. */
  async publishRelease(
    product: string,
    counter: number,
    image: Buffer,
    chunkBytes = CHUNK_BYTES,
  ): Promise<PublishedImage> {
    const published = this.repository.addRelease({ product, counter, image, chunkBytes });
    await this.repository.publishReleases(product);
    return published;
  }

  /** Starts a rollout to all devices. */
  async startRollout(product: string, counter: number, changes: Partial<Rollout> = {}): Promise<Rollout> {
    const rollout = this.repository.addRollout(counter, changes, product);
    await this.repository.publishRollouts(product);
    return rollout;
  }

  protected override async answerSite({ method, path, json, send }: SiteRequest): Promise<void> {
    const [kind, id = ''] = path.split('/');
    if (method === 'GET') {
      const assignment = kind === 'assignments' ? await this.records.assignmentOf(id) : undefined;
      if (assignment) send(200, { assignment });
      else send(404, { code: 'SITECAST_NO_ASSIGNMENT' });
      return;
    }
    if (kind === 'enrolments') {
      const assignment = await this.records.enrol(fieldOf(json, 'envelope'));
      if (assignment) send(200, { assignment });
      else send(202, { state: 'pending' });
    } else if (kind === 'reports') await this.#answerReports(listOf(json, 'reports'), send);
    else if (kind === 'progress') send(202, {});
    else if (kind === 'presence' && this.presence) {
      this.presence.push(presenceSchema.parse(json));
      send(200, { next: 'changes' });
    } else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #answerReports(envelopes: readonly unknown[], send: SiteRequest['send']): Promise<void> {
    const reports = envelopes.map(envelope => readReport(envelope).document);
    const status = reports.map(this.refusesWhole).find(refusal => refusal !== undefined);
    if (status !== undefined) {
      send(status, { code: 'SITECAST_REQUEST_INVALID' });
      return;
    }
    const rejected: object[] = [];
    const acknowledgements = new Map<string, Envelope>();
    for (const [index, report] of reports.entries()) {
      const { id, epoch, seq } = report;
      const code = this.rejects.get(seq);
      const untaken = this.#untaken(report, index);
      if (untaken) rejected.push(untaken);
      else if (code === undefined) this.records.take(envelopes[index]);
      else rejected.push({ id, epoch, seq, code });
      const acknowledgement = untaken ? undefined : await this.records.acknowledgementOf(id, epoch);
      if (acknowledgement) acknowledgements.set(`${id} ${epoch}`, acknowledgement);
    }
    send(200, { acknowledgements: [...acknowledgements.values()], rejected });
  }

  #untaken(report: Report, index: number): object | undefined {
    if (this.cannotRead(report)) return { index, code: 'SITECAST_DOCUMENT_MALFORMED' };
    const { id, epoch, seq } = report;
    const retryAfterS = this.putsOff(report);
    if (retryAfterS === undefined) return undefined;
    return { index, id, epoch, seq, code: 'SITECAST_REPORTS_OVER_BUDGET', retryAfterS };
  }
}

/** A field of a decoded body; undefined where there is none. */
export function fieldOf(body: unknown, name: string): unknown {
  return typeof body === 'object' && body !== null ? Reflect.get(body, name) : undefined;
}

/** A field that is a list; an empty one where it isn't. */
export function listOf(body: unknown, name: string): unknown[] {
  const found = fieldOf(body, name);
  return Array.isArray(found) ? found : [];
}
