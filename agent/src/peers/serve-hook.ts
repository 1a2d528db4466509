import type { RunCommand } from '../ports.ts';

/** How long an answer of the command holds, milliseconds. */
const HOLDS_MS = 15_000;

/**
 * The owner's word whether this is a good time to hand out chunks. The command is asked while others want some, now and then;
 * until it has answered, its last answer holds.
 */
export class ServeHook {
  readonly #ask: () => Promise<boolean>;
  readonly #now: () => number;
  #isWelcome: boolean;
  #askedMs = Number.NEGATIVE_INFINITY;

  /**
   * @param ask whether chunks may be handed out; never rejects
   * @param now milliseconds on a clock that never goes back
   */
  constructor(ask: (() => Promise<boolean>) | undefined, now: () => number = () => performance.now()) {
    this.#ask = ask ?? (async () => true);
    this.#now = now;
    // Nothing is handed out before the owner was asked.
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

/** The owner's command as such a hook; without one, it's always a good time. */
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
      // A command that can't be run says nothing that would allow it.
      () => false,
    ),
  );
}
