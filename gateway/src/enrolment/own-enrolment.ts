import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, type JoinToken, sealEnrolment } from '@sitecast/shared/fleet';
import type { KeyValueStore } from '@sitecast/shared/key-value';
import type { Identity } from '@sitecast/shared/identity';
import { Backoff, sleep, withJitter } from '@sitecast/shared/async';
import type { RelayedDocuments } from '../devices/relayed-documents.ts';
import type { Log } from '@sitecast/shared/log';
import { assignmentReader, problemIn, problemReader } from '../upstream/answers.ts';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

const MIN_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 60_000;
/** How often the gateway asks while an operator must accept it. */
const PENDING_MS = 3000;
/** How often the gateway asks for its own assignment. */
const REFRESH_MS = 5 * 60_000;
const NONCE_KEY = 'nonce';

interface OwnEnrolmentDeps {
  identity: Identity;
  /** Undefined where an operator accepts this gateway by hand. */
  token: JoinToken | undefined;
  site: string | undefined;
  records: KeyValueStore;
  upstreams: Pick<SiteUpstreams, 'ask'>;
  assignments: RelayedDocuments<Assignment>;
  /** Whether the signers of assignments are known. */
  isReady: () => boolean;
  onSite: (site: string) => void;
  /** Called with this gateway's display name; undefined: it has none. */
  onName?: ((name: string | undefined) => void) | undefined;
  log: Log;
}

export type EnrolmentState = 'new' | 'pending' | 'refused' | 'enrolled' | 'revoked';

/** Enrols this gateway at the origin, and keeps its assignment fresh. */
export class OwnEnrolment {
  readonly #deps: OwnEnrolmentDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  state: EnrolmentState = 'new';

  constructor(deps: OwnEnrolmentDeps) {
    this.#deps = deps;
  }

  /** The site that this gateway serves, by its assignment. */
  async site(): Promise<string | undefined> {
    const own = await this.#deps.assignments.known(this.#deps.identity.id);
    return own?.kind === 'gateway' && !own.revoked ? own.site : undefined;
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const waitMs = await this.#step();
      await sleep(waitMs, signal);
    }
  }

  /** @returns how long to wait until the next step */
  async #step(): Promise<number> {
    const { assignments, identity, isReady, log } = this.#deps;
    if (!isReady()) return MIN_BACKOFF_MS / 4;
    try {
      const envelope = await assignments.get(identity.id, { isForwarded: false });
      if (envelope === undefined) return await this.#enrol();
      return await this.#adopt();
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      const waitMs = this.#backoff.next();
      log.info(
        { code: error.code, detail: error.message, waitMs: Math.round(waitMs) },
        'enrolling must wait',
      );
      return waitMs;
    }
  }

  async #adopt(): Promise<number> {
    const { assignments, identity, onSite, onName, log } = this.#deps;
    const own = await assignments.known(identity.id);
    const state = own?.revoked ? 'revoked' : 'enrolled';
    if (own && state !== this.state)
      log[own.revoked ? 'warn' : 'info'](
        { name: own.name, site: own.site, serial: own.serial },
        `gateway ${state}`,
      );
    this.state = state;
    if (own) onName?.(own.name);
    if (own && !own.revoked) onSite(own.site);
    this.#backoff.reset();
    return withJitter(REFRESH_MS);
  }

  async #enrol(): Promise<number> {
    const { identity, token, site, upstreams, assignments, log } = this.#deps;
    const envelope = await sealEnrolment(
      {
        format: 'sitecast-enrolment-1',
        id: identity.id,
        nonce: await this.#nonce(),
        kind: 'gateway',
        ...(site === undefined ? {} : { site }),
        ...(token ? { token: token.pair.keyId } : {}),
      },
      identity,
      token?.pair,
    );
    const { status, json } = await upstreams.ask('/site/v1/enrolments', { envelope });
    if (status === 200) {
      await assignments.accept(assignmentReader.parse(json).assignment);
      return this.#adopt();
    }
    if (status === 202) {
      if (this.state !== 'pending')
        log.info({}, 'waiting until an operator accepts this gateway (sitecast gateway accept)');
      this.state = 'pending';
      return withJitter(PENDING_MS);
    }
    this.state = 'refused';
    const waitMs = this.#backoff.next();
    const about = { status, code: problemReader.parse(json).code, ...problemIn(json) };
    log.warn({ ...about, waitMs: Math.round(waitMs) }, 'the origin did not let this gateway in');
    return waitMs;
  }

  // One nonce for all attempts, so that they count as one use of the token.
  async #nonce(): Promise<string> {
    const { records } = this.#deps;
    const stored = await records.get(NONCE_KEY);
    if (typeof stored === 'string') return stored;
    const nonce = randomBytes(16).toString('hex');
    await records.commit([{ key: NONCE_KEY, value: nonce }]);
    return nonce;
  }
}
