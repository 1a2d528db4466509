import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { openAcknowledgement } from '@sitecast/shared/fleet';
import type { RoleSigners } from '@sitecast/shared/trust';
import type { Gateway } from '../ports.ts';
import type { Outbox } from '../state/outbox.ts';
import { type Gateways, noGateway } from './gateways.ts';
import { fieldOf, textOf } from './membership.ts';

const MAX_BATCH_REPORTS = 200;
const MAX_BATCH_BYTES = 900 * 1024;
const MAX_ACKNOWLEDGEMENTS = 16;
/** A report that a gateway took is sent to it again when no acknowledgement came for so long, milliseconds. */
const RESEND_AFTER_MS = 5 * 60_000;

interface Sent {
  epoch: string;
  seq: number;
  atMs: number;
}

/**
 * Brings the outbox to the origin. A gateway's "taken" isn't delivery: a report leaves the outbox when the origin's
 * own signature says that it has it, through whichever gateway that comes.
 */
export class Delivery {
  readonly #outbox: Outbox;
  readonly #gateways: Gateways;
  readonly #id: string;
  readonly #now: () => number;
  readonly #sent = new Map<string, Sent>();
  /** Gateways that were asked, since the start, what the origin has of this device. */
  readonly #asked = new Set<string>();
  #running: Promise<void> = Promise.resolve();
  /** What the origin refuses, if it said so; for the status. */
  refusal: string | undefined;

  constructor(options: { outbox: Outbox; gateways: Gateways; id: string; now: () => number }) {
    this.#outbox = options.outbox;
    this.#gateways = options.gateways;
    this.#id = options.id;
    this.#now = options.now;
  }

  /** Sends what's due and takes acknowledgements. Failing is no news: it's tried again. One run at a time. */
  async run(signers: RoleSigners | undefined, signal?: AbortSignal): Promise<void> {
    const before = this.#running;
    const run = before.then(() => this.#run(signers, signal));
    this.#running = run.catch(() => {
      // The caller has got the error.
    });
    return run;
  }

  async #run(signers: RoleSigners | undefined, signal: AbortSignal | undefined): Promise<void> {
    if (this.#outbox.pendingCount === 0) return;
    try {
      await this.#gateways.each(gateway => this.#deliver(gateway, signers, signal), signal);
    } catch (error) {
      // Whatever it is, the reports stay where they are, and an update doesn't depend on them.
      if (!(error instanceof SitecastError) && !isSystemError(error) && !signal?.aborted) throw error;
    }
  }

  async #deliver(
    gateway: Gateway,
    signers: RoleSigners | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    // First of all: where the outbox's file has lost its end, the numbers of what it lost mustn't be given once more.
    if (signers && !this.#asked.has(gateway.url)) {
      await this.#askFor(gateway, signers, signal);
      this.#asked.add(gateway.url);
    }
    await this.#send(gateway, signers, signal);
    if (this.#outbox.pendingCount > 0 && signers) await this.#askFor(gateway, signers, signal);
  }

  async #askFor(gateway: Gateway, signers: RoleSigners, signal: AbortSignal | undefined): Promise<void> {
    const path = `/site/v1/acknowledgements/${this.#id}`;
    const { status, body } = await this.#gateways.get(gateway, path, signal);
    if (status !== 200) return;
    const acknowledgement = fieldOf(body, 'acknowledgement');
    if (acknowledgement === undefined) throw noGateway(gateway.url, 'its acknowledgement is none');
    await this.#take(acknowledgement, signers);
  }

  async #send(
    gateway: Gateway,
    signers: RoleSigners | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { epoch } = this.#outbox;
    const sent = this.#sent.get(gateway.url);
    const isRecent = sent?.epoch === epoch && this.#now() - sent.atMs < RESEND_AFTER_MS;
    let after = isRecent ? sent.seq : 0;
    for (;;) {
      const batch = this.#batchAfter(after);
      const last = batch.at(-1);
      if (!last) return;
      const reports = batch.map(({ envelope }) => envelope);
      const { status, body } = await this.#gateways.post(gateway, '/site/v1/reports', { reports }, signal);
      if (status !== 200 && status !== 202) {
        this.refusal = `${gateway.url} refuses reports: status ${status} ${textOf(body, 'code') ?? ''}`;
        throw new SitecastError('unreachable', 'SITECAST_REPORTS_REFUSED', this.refusal);
      }
      this.#noteRejections(body);
      this.#sent.set(gateway.url, { epoch, seq: last.seq, atMs: this.#now() });
      after = last.seq;
      if (signers) await this.#takeAll(body, signers);
      if (this.#outbox.epoch !== epoch) return;
    }
  }

  #batchAfter(seq: number): ReturnType<Outbox['pending']> {
    const batch = [];
    let lengthBytes = 0;
    for (const entry of this.#outbox.pending()) {
      if (entry.seq <= seq) continue;
      lengthBytes += entry.lengthBytes;
      if (batch.length === MAX_BATCH_REPORTS || (batch.length > 0 && lengthBytes > MAX_BATCH_BYTES)) break;
      batch.push(entry);
    }
    return batch;
  }

  async #takeAll(body: unknown, signers: RoleSigners): Promise<void> {
    const one = fieldOf(body, 'acknowledgement');
    const several = fieldOf(body, 'acknowledgements');
    const all: unknown[] = Array.isArray(several) ? several.slice(0, MAX_ACKNOWLEDGEMENTS) : [];
    for (const envelope of one === undefined ? all : [one, ...all]) await this.#take(envelope, signers);
  }

  async #take(envelope: unknown, signers: RoleSigners): Promise<void> {
    try {
      const { id, epoch, seq, at } = openAcknowledgement(envelope, signers);
      if (id !== this.#id) return;
      const taken = await this.#outbox.acknowledge(epoch, seq, Date.parse(at));
      if (taken === 'takenBack') this.#sent.clear();
    } catch (error) {
      // Not the origin's word.
      if (!(error instanceof SitecastError)) throw error;
    }
  }

  #noteRejections(body: unknown): void {
    const rejected = fieldOf(body, 'rejected');
    const [first] = Array.isArray(rejected) ? rejected : [];
    this.refusal =
      first === undefined
        ? undefined
        : `the origin refuses report ${Number(fieldOf(first, 'seq'))}: ${textOf(first, 'code') ?? ''}`;
  }
}
