import { setTimeout as sleep } from 'node:timers/promises';
import { SitecastError } from '../errors.ts';

/** The longest time that a daemon takes to stop. systemd kills it after 30 seconds. */
const STOP_WITHIN_MS = 24_000;
/** How long a finished process may live on, when something that didn't end keeps it alive. */
const LINGER_MS = 1000;

interface Ending {
  name: string;
  end: () => Promise<void>;
}

/** A part of a daemon that didn't end as it should. */
interface Failure {
  name: string;
  error: unknown;
}

/** What a daemon has opened. All of it is ended in reverse order within a bounded time, even where one ending throws. */
export class Endings {
  readonly #endings: Ending[] = [];
  readonly #withinMs: number;
  readonly #onFailure: (name: string, error: unknown) => void;

  /** @param onFailure called at once for each ending that fails */
  constructor(onFailure: (name: string, error: unknown) => void, withinMs = STOP_WITHIN_MS) {
    this.#onFailure = onFailure;
    this.#withinMs = withinMs;
  }

  /** @param name of the part, for messages */
  add(name: string, end: () => Promise<void>): void {
    this.#endings.push({ name, end });
  }

  /**
   * Ends everything. A second call ends nothing again.
   * @throws SITECAST_STOP_INCOMPLETE if anything failed or took too long
   */
  async endAll(): Promise<void> {
    const failures: Failure[] = [];
    const timer = new AbortController();
    const late = sleep(this.#withinMs, 'late' as const, { signal: timer.signal }).catch(
      () => 'late' as const,
    );
    for (const { name, end } of this.#endings.splice(0).reverse()) {
      try {
        const outcome = await Promise.race([end(), late]);
        if (outcome === 'late') throw new Error('it took too long');
      } catch (error) {
        failures.push({ name, error });
        this.#onFailure(name, error);
      }
    }
    timer.abort();
    if (failures.length > 0) throw incomplete(failures);
  }
}

function incomplete(failures: readonly Failure[]): SitecastError {
  const said = failures.map(
    ({ name, error }) => `${name}: ${error instanceof Error ? error.message : String(error)}`,
  );
  return new SitecastError(
    'failed',
    'SITECAST_STOP_INCOMPLETE',
    `it has stopped, but not all of it as it should: ${said.join('; ')}`,
    {
      hint: 'What was acknowledged is safe. The log says more.',
      cause: failures[0]?.error,
    },
  );
}

/** A daemon calls this when it has finished. The process then ends even if something still keeps it alive. */
export function endProcessSoon(): void {
  setTimeout(() => process.exit(), LINGER_MS).unref();
}
