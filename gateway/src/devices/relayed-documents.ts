import {
  type Acknowledgement,
  type Assignment,
  openAcknowledgement,
  openAssignment,
  supersedes,
} from '@sitecast/shared/fleet';
import { SitecastError } from '@sitecast/shared/errors';
import { FairQueue, lruCache, type LruCache, TokenBucket } from '@sitecast/shared/bounded';
import { type Envelope, envelopeSchema } from '@sitecast/shared/identity';
import { type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import type { RoleSigners } from '@sitecast/shared/trust';
import { z } from 'zod';
import type { Log } from '@sitecast/shared/log';
import { acknowledgementReader, assignmentReader } from '../upstream/answers.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

/** How many documents of one kind are kept. More are only passed on. */
const MAX_DOCUMENTS = 50_000;
/** A kept document that is older is requested again, if an upstream can be reached. */
const REFRESH_AFTER_MS = 60_000;
/** How long it is remembered that an upstream has no such document, or did not answer. */
const ABSENT_FOR_MS = 3000;
const MAX_REMEMBERED = 20_000;
/** The rate of requests to upstreams in all: any machine on the LAN can ask for any id. */
const ASKS = { perS: 20, burst: 100 };
/** How many requests may wait for their turn, each for five seconds at most. */
const MAX_WAITING_ASKS = 100;
/** Stands for a requester where no request is the cause. */
const ITSELF = 'this gateway';

const heldSchema = z.object({ envelope: envelopeSchema, askedMs: z.number() });

/** One kind of documents that the origin signs about devices. */
interface RelayedKind<T> {
  /** Its name in the log. */
  name: string;
  /** The path below /site/v1/. */
  path: string;
  /** The envelope in an answer. */
  envelopeIn: (json: unknown) => unknown;
  open: (envelope: unknown, signers: RoleSigners) => T;
  /** Whether `next` replaces `held`. */
  supersedes: (next: T, held: T) => boolean;
}

export const ASSIGNMENTS: RelayedKind<Assignment> = {
  name: 'assignment',
  path: 'assignments',
  envelopeIn: json => assignmentReader.parse(json).assignment,
  open: openAssignment,
  supersedes,
};

export const ACKNOWLEDGEMENTS: RelayedKind<Acknowledgement> = {
  name: 'acknowledgement',
  path: 'acknowledgements',
  envelopeIn: json => acknowledgementReader.parse(json).acknowledgement,
  open: openAcknowledgement,
  // The later one by the origin's clock counts, even if it acknowledges less: then the origin was restored from a backup.
  supersedes: (next, held) =>
    Date.parse(next.at) > Date.parse(held.at) ||
    (next.at === held.at && next.epoch === held.epoch && next.seq > held.seq),
};

interface RelayedDocumentsDeps<T> {
  kind: RelayedKind<T>;
  records: KeyValueStore;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  /** The keys that sign such documents, by the mirrored metadata; undefined before there is any. */
  signers: () => RoleSigners | undefined;
  now: () => number;
  log: Log;
  /** Called with every accepted document. */
  onAccepted?: (document: T) => void;
}

/** Documents that the origin has signed about devices. They are verified, the newest of each id is kept, and old ones are requested again. */
export class RelayedDocuments<T extends { id: string }> {
  readonly #deps: RelayedDocumentsDeps<T>;
  readonly #opened = lruCache<string, { payload: string; signers: RoleSigners; document: T & object }>({
    max: MAX_REMEMBERED,
  });
  readonly #asking = new Map<string, Promise<void>>();
  readonly #absent: LruCache<string, true>;
  readonly #asks: FairQueue;
  #count = 0;

  private constructor(deps: RelayedDocumentsDeps<T>) {
    this.#deps = deps;
    this.#absent = lruCache({ max: MAX_REMEMBERED, ttl: ABSENT_FOR_MS, now: deps.now });
    const rate = new TokenBucket({ ...ASKS, now: () => performance.now() });
    this.#asks = new FairQueue({
      maxRunning: Number.POSITIVE_INFINITY,
      maxWaiting: MAX_WAITING_ASKS,
      mayBegin: () => rate.take(),
    });
  }

  static async open<T extends { id: string }>(deps: RelayedDocumentsDeps<T>): Promise<RelayedDocuments<T>> {
    const documents = new RelayedDocuments(deps);
    for await (const [key] of deps.records.entries(startingWith(''))) if (key !== '') documents.#count += 1;
    return documents;
  }

  /**
   * The newest document about an id, as the origin signed it.
   * @param isForwarded whether another gateway asks: then no upstream is asked
   * @param address of the requester. Each address has its turn, however many requests others send
   */
  async get(
    id: string,
    { isForwarded, address = ITSELF }: { isForwarded: boolean; address?: string | undefined },
  ): Promise<Envelope | undefined> {
    const held = await this.#held(id);
    const isOld = held === undefined || this.#deps.now() - held.askedMs > REFRESH_AFTER_MS;
    if (!isForwarded && isOld && !this.#absent.has(id)) await this.#askOnce(id, address);
    return (await this.#held(id))?.envelope;
  }

  /** How many requests were given up since the start, because other addresses had sent fewer. */
  get givenUp(): number {
    return this.#asks.givenUp;
  }

  /**
   * The kept document about an id. The upstream is asked only if the kept one was signed by a key that no longer counts: then the origin
   * has changed its key, and signs the document again.
   */
  async known(id: string): Promise<T | undefined> {
    const held = await this.#held(id);
    if (held || this.#absent.has(id) || !this.#deps.signers()) return held?.document;
    if ((await this.#deps.records.get(id)) === undefined) return undefined;
    await this.#askOnce(id, ITSELF);
    return (await this.#held(id))?.document;
  }

  /**
   * Keeps a document if it is newer than the held one.
   * @returns the document, verified
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED; SITECAST_NOT_READY (unreachable) while the signers are
   *   not known; SITECAST_NO_SPACE
   */
  async accept(value: unknown): Promise<T> {
    const { kind, records, now, onAccepted } = this.#deps;
    const document = kind.open(value, this.#signers());
    const held = await this.#held(document.id);
    const isNewer = !held || kind.supersedes(document, held.document);
    const envelope = isNewer ? envelopeSchema.parse(value) : held.envelope;
    const isStored = held !== undefined || (await records.get(document.id)) !== undefined;
    if (isStored || this.#count < MAX_DOCUMENTS) {
      await records.commit([{ key: document.id, value: { envelope, askedMs: now() } }], {
        isDurable: isNewer,
      });
      if (!isStored) this.#count += 1;
    }
    this.#absent.delete(document.id);
    if (isNewer) onAccepted?.(document);
    return document;
  }

  /** All kept documents that verify. */
  async *all(): AsyncGenerator<T> {
    for await (const [id] of this.#deps.records.entries(startingWith(''))) {
      const held = await this.#held(id);
      if (held) yield held.document;
    }
  }

  async #held(id: string): Promise<{ envelope: Envelope; document: T; askedMs: number } | undefined> {
    const parsed = heldSchema.safeParse(await this.#deps.records.get(id));
    const signers = this.#deps.signers();
    if (!parsed.success || !signers) return undefined;
    const { envelope, askedMs } = parsed.data;
    const opened = this.#opened.get(id);
    if (opened?.payload === envelope.payload && opened.signers === signers)
      return { envelope, askedMs, document: opened.document };
    try {
      const document = this.#deps.kind.open(envelope, signers);
      this.#opened.set(id, { payload: envelope.payload, signers, document });
      return { envelope, askedMs, document };
    } catch (error) {
      // It was signed by a key that no longer counts, so it is requested again.
      if (error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  async #askOnce(id: string, address: string): Promise<void> {
    const asking = this.#asking.get(id) ?? this.#ask(id, address).finally(() => this.#asking.delete(id));
    this.#asking.set(id, asking);
    await asking;
  }

  async #ask(id: string, address: string): Promise<void> {
    const { kind, upstreams, log } = this.#deps;
    if (!(await this.#asks.turn(address))) return;
    // Whatever the answer was, the upstream is not asked again at once.
    this.#absent.set(id, true);
    try {
      const { status, json } = await upstreams.ask(`/site/v1/${kind.path}/${id}`);
      if (status !== 200 || typeof json !== 'object' || json === null) return;
      const document = await this.accept(kind.envelopeIn(json));
      if (document.id !== id)
        log.warn({ subject: id, kind: kind.name }, 'an upstream gave a document about another id');
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ subject: id, kind: kind.name, code: error.code }, 'an upstream gave no document');
    }
  }

  #signers(): RoleSigners {
    const signers = this.#deps.signers();
    if (signers) return signers;
    throw new SitecastError(
      'unreachable',
      'SITECAST_NOT_READY',
      'this gateway has not yet mirrored who may sign this',
    );
  }
}
