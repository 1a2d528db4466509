import { setTimeout as sleep } from 'node:timers/promises';
import { SitecastError } from '../errors.ts';

/** How long a daemon that is told to stop takes at the most: systemd kills after 30 seconds. */
const STOP_WITHIN_MS = 24_000;
/** How long a process may linger that has nothing more to do: something that didn't end may hold it. */
const LINGER_MS = 1000;

interface Ending {
  name: string;
  end: () => Promise<void>;
}

/** What of a daemon could not be ended as it should. */
interface Failure {
  name: string;
  error: unknown;
}

/** What a daemon has opened, to be ended in the reverse order: all of it, whatever one of them throws, and within bounds. */
export class Endings {
  readonly #endings: Ending[] = [];
  readonly #withinMs: number;
  readonly #onFailure: (name: string, error: unknown) => void;

  /** @param onFailure told at once of each that failed */
  constructor(onFailure: (name: string, error: unknown) => void, withinMs = STOP_WITHIN_MS) {
    this.#onFailure = onFailure;
    this.#withinMs = withinMs;
  }

  /** @param name what is ended, for messages */
  add(name: string, end: () => Promise<void>): void {
    this.#endings.push({ name, end });
  }

  /**
   * Ends all; what is ended isn't ended a second time.
   * @throws SITECAST_STOP_INCOMPLETE where anything failed, or took too long
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

/** To be called by a daemon that has nothing more to do: its process ends even if something still holds it. */
export function endProcessSoon(): void {
  setTimeout(() => process.exit(), LINGER_MS).unref();
}
