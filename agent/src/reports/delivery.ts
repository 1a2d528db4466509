import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { openAcknowledgement } from '@sitecast/shared/fleet';
import type { RoleSigners } from '@sitecast/shared/trust';
import pLimit from 'p-limit';
import type { Gateway, Log } from '../ports.ts';
import type { SiteExchange } from '../peers/site-exchange.ts';
import type { StatusBoard } from '../state/status.ts';
import type { Trust } from '../upstream/trust.ts';
import type { Outbox } from './outbox.ts';
import type { Reporter } from './reporter.ts';
import { type Gateways, noGateway } from '../upstream/gateways.ts';
import { acknowledgementReader, problemReader, reportsReader } from '../upstream/answers.ts';
import {
  blamesReports,
  PutOffs,
  putOffForS,
  Refusals,
  TakenReports,
  type Verdicts,
} from './gateway-verdicts.ts';

const MAX_BATCH_REPORTS = 200;
const MAX_BATCH_BYTES = 900 * 1024;
const MAX_ACKNOWLEDGEMENTS = 16;
/** Requests to one gateway in one run. What it refuses is found out by halves. */
const MAX_REQUESTS = 100;

interface DeliveryOptions {
  outbox: Outbox;
  gateways: Gateways;
  id: string;
  now: () => number;
  log: Log;
}

/**
 * Brings the reports of the outbox to the origin. A gateway that takes a report hasn't delivered it: the report leaves the outbox when
 * the origin's signed acknowledgement comes, through any gateway. Until then the report goes to one gateway after the other (see
 * TakenReports). A gateway's refusal proves nothing either: the other reports go on without that one, and at most it is reported again
 * (see Refusals). Where a gateway takes no more for now, the reports stay, and go on in their order later.
 */
export class Delivery {
  readonly #outbox: Outbox;
  readonly #gateways: Gateways;
  readonly #id: string;
  readonly #taken: TakenReports;
  readonly #refusals: Refusals;
  readonly #putOffs: PutOffs;
  /** Gateways that were asked for the origin's acknowledgement since the start. */
  readonly #asked = new Set<string>();
  readonly #inTurn = pLimit(1);
  /** Which gateway refuses what; for the status. */
  refusal: string | undefined;

  constructor({ outbox, gateways, id, now, log }: DeliveryOptions) {
    this.#outbox = outbox;
    this.#gateways = gateways;
    this.#id = id;
    this.#taken = new TakenReports(now);
    this.#refusals = new Refusals({ outbox, now, log });
    this.#putOffs = new PutOffs(now);
  }

  /** Sends what is due and takes acknowledgements. One run at a time. A failure is no error: the next run tries again. */
  run(signers: RoleSigners | undefined, signal?: AbortSignal): Promise<void> {
    return this.#inTurn(() => this.#run(signers, signal));
  }

  async #run(signers: RoleSigners | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (this.#outbox.pendingCount === 0) return;
    this.#refusals.begin();
    try {
      await this.#outbox.settle();
      this.#taken.begin(this.#outbox.epoch, new Set(this.#outbox.pending().map(({ seq }) => seq)));
      const order = this.#taken.inOrder(this.#gateways.inOrder);
      await this.#gateways.each(gateway => this.#deliver(gateway, signers, signal), signal, order);
    } catch (error) {
      // The reports stay in the outbox, and an update doesn't depend on them.
      if (!(error instanceof SitecastError) && !isSystemError(error) && !signal?.aborted) throw error;
    }
    await this.#tellRefusedAgain();
  }

  async #tellRefusedAgain(): Promise<void> {
    try {
      await this.#refusals.settle();
    } catch (error) {
      // A full disk: the chain stays as it is, and the next run tries again.
      if (!isSystemError(error)) throw error;
    }
  }

  /** @throws SITECAST_REPORTS_REFUSED where this gateway refuses some, or takes no more for now: another gateway may take them */
  async #deliver(
    gateway: Gateway,
    signers: RoleSigners | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    // First of all: the outbox's file may have lost its end, and the numbers of the lost reports mustn't be used once more.
    if (signers && !this.#asked.has(gateway.url)) {
      await this.#askFor(gateway, signers, signal);
      this.#asked.add(gateway.url);
    }
    const verdicts = await this.#send(gateway, signers, signal);
    if (this.#outbox.pendingCount > 0 && signers) await this.#askFor(gateway, signers, signal);
    const [first] = verdicts.refused;
    const refused = first ? `${first.seq}: ${first.code}` : verdicts.otherRefusal;
    this.refusal = refused === undefined ? undefined : `${gateway.url} refuses report ${refused}`;
    const restS = this.#putOffs.leftS(gateway);
    if (restS > 0)
      this.refusal ??= `${gateway.url} takes the next reports in ${restS} s: it has all that it takes for now`;
    if (this.refusal !== undefined)
      throw new SitecastError('unreachable', 'SITECAST_REPORTS_REFUSED', this.refusal);
  }

  async #askFor(gateway: Gateway, signers: RoleSigners, signal: AbortSignal | undefined): Promise<void> {
    const path = `/site/v1/acknowledgements/${this.#id}`;
    const { status, body } = await this.#gateways.get(gateway, path, signal);
    if (status !== 200) return;
    const { acknowledgement } = acknowledgementReader.parse(body);
    if (acknowledgement === undefined) throw noGateway(gateway.url, 'its acknowledgement is none');
    await this.#take(acknowledgement, signers);
  }

  /** Sends the reports, and skips what this gateway refuses. @returns what it said */
  async #send(
    gateway: Gateway,
    signers: RoleSigners | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Verdicts> {
    const { epoch } = this.#outbox;
    const verdicts = this.#refusals.of(gateway.url);
    if (this.#putOffs.leftS(gateway) > 0) return verdicts;
    let after = 0;
    let most = MAX_BATCH_REPORTS;
    for (let requests = 0; requests < MAX_REQUESTS && this.#outbox.epoch === epoch; requests += 1) {
      const batch = this.#batchAfter(after, most, { gateway, verdicts });
      if (batch.length === 0) break;
      const taken = await this.#post(gateway, batch, { verdicts, signers, signal });
      if (taken === undefined) {
        most = Math.ceil(batch.length / 2);
        continue;
      }
      after = taken;
      const taking = batch.map(({ seq }) => seq).filter(seq => seq <= taken && !verdicts.hasRefused(seq));
      if (verdicts.hasTaken && this.#outbox.epoch === epoch) this.#taken.note(gateway.url, taking);
      // While nothing is taken, a single report shows whether the refusal is about the reports at all.
      if (verdicts.hasTaken) most = MAX_BATCH_REPORTS;
      if (this.#putOffs.leftS(gateway) > 0) break;
    }
    this.#refusals.heard(gateway.url, verdicts);
    return verdicts;
  }

  /**
   * @returns the number of the last report that is dealt with; undefined where the batch is refused as a whole, and may be split
   * @throws SITECAST_REPORTS_REFUSED where the refusal isn't about these reports
   */
  async #post(
    gateway: Gateway,
    batch: ReturnType<Outbox['pending']>,
    {
      verdicts,
      signers,
      signal,
    }: { verdicts: Verdicts; signers: RoleSigners | undefined; signal: AbortSignal | undefined },
  ): Promise<number | undefined> {
    const reports = batch.map(({ envelope }) => envelope);
    const { status, body } = await this.#gateways.post(gateway, '/site/v1/reports', { reports }, signal);
    if (status === 200 || status === 202) {
      const putOff = verdicts.noteAnswer(batch, this.#outbox.pending(), body);
      if (putOff) this.#putOffs.note(gateway, putOff.forS);
      if (signers) await this.#takeAll(body, signers);
      return putOff ? putOff.seq - 1 : batch.at(-1)?.seq;
    }
    const { code, data } = problemReader.parse(body);
    const forS = putOffForS(code, data?.retryAfterS);
    if (forS === undefined) return this.#refusedWhole(gateway, batch, { verdicts, status, body });
    this.#putOffs.note(gateway, forS);
    return (batch[0]?.seq ?? 1) - 1;
  }

  /** @returns, and throws, as `#post` */
  #refusedWhole(
    gateway: Gateway,
    batch: ReturnType<Outbox['pending']>,
    { verdicts, status, body }: { verdicts: Verdicts; status: number; body: unknown },
  ): number | undefined {
    if (!blamesReports(status) || !verdicts.mayGoOn) throw this.#refusesAll(gateway, status, body);
    const [only] = batch;
    if (!only || batch.length > 1) return undefined;
    verdicts.noteAlone(only, problemReader.parse(body).code ?? `status ${status}`);
    return only.seq;
  }

  #refusesAll(gateway: Gateway, status: number, body: unknown): SitecastError {
    this.refusal = `${gateway.url} refuses reports: status ${status} ${problemReader.parse(body).code ?? ''}`;
    return new SitecastError('unreachable', 'SITECAST_REPORTS_REFUSED', this.refusal);
  }

  #batchAfter(
    seq: number,
    mostReports: number,
    { gateway, verdicts }: { gateway: Gateway; verdicts: Verdicts },
  ): ReturnType<Outbox['pending']> {
    const batch = [];
    let lengthBytes = 0;
    for (const entry of this.#outbox.pending()) {
      if (entry.seq <= seq || verdicts.hasRefused(entry.seq)) continue;
      if (this.#taken.isRecent(gateway.url, entry.seq)) continue;
      lengthBytes += entry.lengthBytes;
      if (batch.length === mostReports || (batch.length > 0 && lengthBytes > MAX_BATCH_BYTES)) break;
      batch.push(entry);
    }
    return batch;
  }

  async #takeAll(body: unknown, signers: RoleSigners): Promise<void> {
    const { acknowledgement: one, acknowledgements: several = [] } = reportsReader.parse(body);
    const all = several.slice(0, MAX_ACKNOWLEDGEMENTS);
    for (const envelope of one === undefined ? all : [one, ...all]) await this.#take(envelope, signers);
  }

  async #take(envelope: unknown, signers: RoleSigners): Promise<void> {
    try {
      const { id, epoch, seq, reportSha256, at } = openAcknowledgement(envelope, signers);
      if (id !== this.#id) return;
      const taken = await this.#outbox.acknowledge(epoch, seq, Date.parse(at), reportSha256);
      if (taken === 'takenBack') this.#taken.clear();
    } catch (error) {
      // The origin hasn't signed it.
      if (!(error instanceof SitecastError)) throw error;
    }
  }
}

/** One run of the delivery, after which the status shows where the reports are. */
export function delivering({
  delivery,
  trust,
  outbox,
  reporter,
  gateways,
  exchange,
  status,
}: {
  delivery: Delivery;
  trust: Pick<Trust, 'signers'>;
  outbox: Pick<Outbox, 'pendingCount'>;
  reporter: Pick<Reporter, 'problem'>;
  gateways: Pick<Gateways, 'heard'>;
  exchange: Pick<SiteExchange, 'counts'> | undefined;
  status: Pick<StatusBoard, 'set'>;
}): (signal: AbortSignal) => Promise<void> {
  return async signal => {
    await delivery.run(trust.signers, signal);
    const problem = reporter.problem ?? delivery.refusal;
    const { heard } = gateways;
    status.set({
      reports: { pending: outbox.pendingCount, problem },
      ...(exchange ? { peers: { ...exchange.counts } } : {}),
      ...(heard ? { heard: { url: heard.url, at: new Date(heard.atMs).toISOString() } } : {}),
    });
  };
}
