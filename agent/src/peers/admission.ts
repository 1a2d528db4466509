import { ShownAssignments } from '@sitecast/shared/fleet';
import type { RunCommand } from '../ports.ts';
import type { Membership } from '../upstream/membership.ts';
import type { Trust } from '../upstream/trust.ts';

/** Decides which machines this device serves: devices and gateways of its site with an assignment that wasn't revoked and hasn't ended. */
export class Admission {
  readonly #trust: Pick<Trust, 'signers' | 'clock'>;
  readonly #membership: Pick<Membership, 'stored'>;
  readonly #shown = new ShownAssignments();
  #revoked: ReadonlySet<string> = new Set();

  constructor(trust: Pick<Trust, 'signers' | 'clock'>, membership: Pick<Membership, 'stored'>) {
    this.#trust = trust;
    this.#membership = membership;
  }

  /** @returns the ids that were not revoked before */
  follow(revoked: readonly string[]): string[] {
    const before = this.#revoked;
    this.#revoked = new Set(revoked);
    return revoked.filter(id => !before.has(id));
  }

  isRevoked(id: string): boolean {
    return this.#revoked.has(id);
  }

  /** @param id proved by the connection @param credential the peer's signed assignment */
  mayServe(id: string, credential: Uint8Array): boolean {
    const { signers } = this.#trust;
    if (!signers || this.#revoked.has(id)) return false;
    const own = this.#membership.stored(signers);
    if (!own || own.revoked === true) return false;
    const { issuedMs } = this.#trust.clock();
    return this.#shown.memberOf(own.site, { id, credential }, { signers, issuedMs }) !== undefined;
  }
}

/** How long an answer of the command counts, in ms. */
const HOLDS_MS = 15_000;

/**
 * Asks the owner's command whether this is a good time to serve chunks. The command runs from time to time while peers request chunks.
 * Until it answers, its last answer counts.
 */
export class ServeHook {
  readonly #ask: () => Promise<boolean>;
  readonly #now: () => number;
  #isWelcome: boolean;
  #askedMs = Number.NEGATIVE_INFINITY;

  /**
   * @param ask whether chunks may be served; never rejects
   * @param now milliseconds on a clock that never goes back
   */
  constructor(ask: (() => Promise<boolean>) | undefined, now: () => number = () => performance.now()) {
    this.#ask = ask ?? (async () => true);
    this.#now = now;
    // With a command, nothing is served before its first answer.
    this.#isWelcome = ask === undefined;
  }

  get isWelcome(): boolean {
    const nowMs = this.#now();
    if (nowMs - this.#askedMs > HOLDS_MS) {
      this.#askedMs = nowMs;
      void this.#ask().then(isWelcome => {
        this.#isWelcome = isWelcome;
      });
    }
    return this.#isWelcome;
  }
}

/** The owner's command as a `ServeHook`. Without a command, chunks are always served. */
export function serveHook(
  { hooks, hookTimeoutMs, product }: { hooks: { serve?: string }; hookTimeoutMs: number; product: string },
  run: RunCommand,
  signal: AbortSignal,
): ServeHook {
  const { serve } = hooks;
  if (serve === undefined) return new ServeHook(undefined);
  const env = { SITECAST_HOOK: 'serve', SITECAST_PRODUCT: product };
  return new ServeHook(() =>
    run(serve, { env, timeoutMs: hookTimeoutMs, signal }).then(
      ({ exitCode, isTimedOut }) => exitCode === 0 && !isTimedOut,
      // A command that can't be run counts as a no.
      () => false,
    ),
  );
}
