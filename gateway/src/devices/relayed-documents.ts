import {
  type Acknowledgement,
  type Assignment,
  openAcknowledgement,
  openAssignment,
} from '@sitecast/shared/fleet';
import { SitecastError } from '@sitecast/shared/errors';
import { FairQueue, TokenBucket } from '@sitecast/shared/bounded';
import { type Envelope, envelopeSchema } from '@sitecast/shared/identity';
import { type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import type { RoleSigners } from '@sitecast/shared/trust';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import type { Log } from '@sitecast/shared/log';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

/** Documents of one kind that are kept; further ones are handed through. */
const MAX_DOCUMENTS = 50_000;
/** How old what is held may be before the upstream is asked again, if it can be reached. */
const REFRESH_AFTER_MS = 60_000;
/** For a document that isn't held at all: how long "there is none", or silence, is remembered. */
const ABSENT_FOR_MS = 3000;
const MAX_REMEMBERED = 20_000;
/** Questions to the upstream, whoever causes them: anybody on the LAN can ask for any id. */
const ASKS = { perS: 20, burst: 100 };
/** That wait for their turn, for five seconds at most. */
const MAX_WAITING_ASKS = 100;
/** Who causes what nobody's request does. */
const ITSELF = 'this gateway';

const heldSchema = z.object({ envelope: envelopeSchema, askedMs: z.number() });

/** One kind of documents that the origin signs about devices. */
interface RelayedKind<T> {
  /** The path below /site/v1/, and the answer's one field. */
  path: string;
  field: string;
  open: (envelope: unknown, signers: RoleSigners) => T;
  /** Whether one is to take the place of another. */
  supersedes: (next: T, held: T) => boolean;
}

export const ASSIGNMENTS: RelayedKind<Assignment> = {
  path: 'assignments',
  field: 'assignment',
  open: openAssignment,
  supersedes: (next, held) => next.serial > held.serial,
};

export const ACKNOWLEDGEMENTS: RelayedKind<Acknowledgement> = {
  path: 'acknowledgements',
  field: 'acknowledgement',
  open: openAcknowledgement,
  // The later one by the origin's clock, even if it knows less: then the origin was restored from a backup.
  supersedes: (next, held) =>
    Date.parse(next.at) > Date.parse(held.at) ||
    (next.at === held.at && next.epoch === held.epoch && next.seq > held.seq),
};

interface RelayedDocumentsDeps<T> {
  kind: RelayedKind<T>;
  records: KeyValueStore;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  /** Who may sign now, by the mirrored metadata; undefined before there's any. */
  signers: () => RoleSigners | undefined;
  now: () => number;
  log: Log;
  /** Called with every document that is taken in. */
  onAccepted?: (document: T) => void;
}

/** What the origin has signed about devices: verified, kept with the newest of each id, asked for again when it's old. */
export class RelayedDocuments<T extends { id: string }> {
  readonly #deps: RelayedDocumentsDeps<T>;
  readonly #opened = new LRUCache<string, { payload: string; signers: RoleSigners; document: T & object }>({
    max: MAX_REMEMBERED,
  });
  readonly #asking = new Map<string, Promise<void>>();
  readonly #absent: LRUCache<string, true>;
  readonly #asks: FairQueue;
  #count = 0;

  private constructor(deps: RelayedDocumentsDeps<T>) {
    this.#deps = deps;
    this.#absent = new LRUCache({ max: MAX_REMEMBERED, ttl: ABSENT_FOR_MS, perf: { now: deps.now } });
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
   * @param isForwarded whether another gateway asks: then nobody else is asked
   * @param address who causes the question, where nobody has vouched for them: each comes in its turn, however many others have
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

  /** Questions that weren't asked because others had fewer, so far. */
  get givenUp(): number {
    return this.#asks.givenUp;
  }

  /**
   * What is held about an id. The upstream is asked in one case alone: what is held was signed by a key that counts no
   * longer. The origin changed its key, and signs it anew.
   */
  async known(id: string): Promise<T | undefined> {
    const held = await this.#held(id);
    if (held || this.#absent.has(id) || !this.#deps.signers()) return held?.document;
    if ((await this.#deps.records.get(id)) === undefined) return undefined;
    await this.#askOnce(id, ITSELF);
    return (await this.#held(id))?.document;
  }

  /**
   * Takes a document in, if it's newer than what is held.
   * @returns what it says
   * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED; SITECAST_NOT_READY (unreachable) where nobody
   *   knows yet who may sign; SITECAST_NO_SPACE
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

  /** Everything that is held and verifies. */
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
      // By keys that nobody trusts any more: asked for again.
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
    // Whatever comes, it isn't asked for again at once.
    this.#absent.set(id, true);
    try {
      const { status, json } = await upstreams.ask(`/site/v1/${kind.path}/${id}`);
      if (status !== 200 || typeof json !== 'object' || json === null) return;
      const document = await this.accept(Object.getOwnPropertyDescriptor(json, kind.field)?.value);
      if (document.id !== id)
        log.warn({ subject: id, kind: kind.field }, 'an upstream gave a document about another id');
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ subject: id, kind: kind.field, code: error.code }, 'an upstream gave no document');
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
