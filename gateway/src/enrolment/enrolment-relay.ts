import { SitecastError } from '@sitecast/shared/errors';
import { FairQueue, TokenBucket, TokenBuckets } from '@sitecast/shared/bounded';
import { type Assignment, readEnrolment } from '@sitecast/shared/fleet';
import { type Envelope, envelopeSchema, verifyById } from '@sitecast/shared/identity';
import { cutText } from '@sitecast/shared/text';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';
import { notYours } from '../reports/report-receiver.ts';
import { assignmentReader, problemReader } from '../upstream/answers.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

/** Enrolments that go over the WAN: of one device, of all with a join token, and of all without. */
const PER_ID = { perS: 0.5, burst: 5 };
const WITH_TOKEN = { perS: 5, burst: 50 };
const WITHOUT_TOKEN = { perS: 1, burst: 20 };
/** The longest wait for a turn. */
const MAX_WAIT_S = 10;
/** The address that counts for requests from this machine. */
const LOOPBACK = 'loopback';

interface EnrolmentRelayDeps {
  upstreams: Pick<SiteUpstreams, 'ask'>;
  assignments: Pick<RelayedDocuments<Assignment>, 'accept'>;
  now: () => number;
}

/** The origin's answer: enrolled, waiting for an operator, or refused. */
export type RelayedAnswer =
  | { status: 200; assignment: Envelope }
  | { status: 202 }
  | { status: number; problem: { code: string; detail: string } };

/** Passes enrolments of devices on to the origin. The device signs them, so neither its id nor its token serves another. */
export class EnrolmentRelay {
  readonly #deps: EnrolmentRelayDeps;
  readonly #perId: TokenBuckets;
  readonly #withToken: FairQueue;
  readonly #withoutToken: FairQueue;

  constructor(deps: EnrolmentRelayDeps) {
    this.#deps = deps;
    this.#perId = new TokenBuckets({ ...PER_ID, now: deps.now });
    this.#withToken = inTurn(WITH_TOKEN);
    this.#withoutToken = inTurn(WITHOUT_TOKEN);
  }

  /** Enrolments that were not passed on because other addresses had sent fewer, since the start. */
  get givenUp(): number {
    return this.#withToken.givenUp + this.#withoutToken.givenUp;
  }

  /**
   * @param sender the device that signed the request
   * @param address where it comes from; undefined for this machine. Each address has its turn, however many keys others make up
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED, SITECAST_NOT_YOURS, SITECAST_RATE_LIMITED,
   *   SITECAST_UPSTREAM_UNREACHABLE, SITECAST_UPSTREAM_ANSWER (unreachable)
   */
  async relay(sender: string, value: unknown, address: string | undefined): Promise<RelayedAnswer> {
    const unverified = readEnrolment(value);
    const { id, kind, token } = unverified.document;
    if (id !== sender) throw notYours(id);
    if (kind !== 'device')
      throw new SitecastError('badInput', 'SITECAST_NOT_A_DEVICE', 'a gateway passes on what devices send');
    // Only the origin knows whether a token is good. Devices without one cannot stand in the way of devices with one.
    const all = token === undefined ? this.#withoutToken : this.#withToken;
    if (!this.#perId.take(id) || !(await all.turn(address ?? LOOPBACK)))
      throw new SitecastError('unreachable', 'SITECAST_RATE_LIMITED', 'too many enrolments: try again later');
    unverified.verify([id], verifyById);
    const { status, json } = await this.#deps.upstreams.ask('/site/v1/enrolments', {
      envelope: envelopeSchema.parse(value),
    });
    if (status === 202) return { status };
    if (status === 200) return { status, assignment: await this.#accept(id, json) };
    return { status, problem: problemOf(json) };
  }

  async #accept(id: string, json: unknown): Promise<Envelope> {
    const envelope = envelopeSchema.safeParse(assignmentReader.parse(json).assignment);
    if (!envelope.success) throw wrongAnswer('it holds no assignment');
    const assignment = await this.#deps.assignments.accept(envelope.data);
    if (assignment.id !== id) throw wrongAnswer("it is another device's");
    return envelope.data;
  }
}

function inTurn({ perS, burst }: { perS: number; burst: number }): FairQueue {
  const rate = new TokenBucket({ perS, burst, now: () => performance.now() });
  return new FairQueue({
    maxRunning: Number.POSITIVE_INFINITY,
    maxWaiting: perS * MAX_WAIT_S,
    mayBegin: () => rate.take(),
  });
}

function problemOf(json: unknown): { code: string; detail: string } {
  const { code, detail } = problemReader.parse(json);
  return {
    code: code !== undefined && /^SITECAST_[A-Z_]{1,60}$/.test(code) ? code : 'SITECAST_UPSTREAM_ANSWER',
    detail: detail === undefined ? 'the upstream refused this without saying why' : cutText(detail, 1000),
  };
}

function wrongAnswer(why: string): SitecastError {
  return new SitecastError(
    'unreachable',
    'SITECAST_UPSTREAM_ANSWER',
    `the upstream's answer is of no use: ${why}`,
  );
}
