import { repeat } from '@sitecast/shared/async';
import { diskFull } from '@sitecast/shared/durable';
import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import type { DatabaseState } from '@sitecast/shared/key-value';
import { errorFields, type Log } from './log.ts';
import { type Warning, whyNotReady } from './repository/description.ts';
import type { Repository } from './repository/repository.ts';
import { demandRoom, type Room } from './room.ts';
import type { After } from './upkeep.ts';

/** How often readiness is checked without a request for it. */
const CHECK_INTERVAL_MS = 5000;

interface ReadinessDeps {
  repository: Repository;
  /** The database's. */
  state: DatabaseState;
  room: Room;
  now: () => number;
  after: After;
  log: Log;
}

/** Why clients don't get what they need, or why the origin takes nothing. */
export interface NotReady {
  code: ErrorCode;
  message: string;
}

/** Checks whether the origin is ready. Each change is logged once. */
export class Readiness {
  readonly #deps: ReadinessDeps;
  /** The code that was logged last; undefined while the origin is ready. */
  #logged: ErrorCode | undefined;
  #stop = async (): Promise<void> => {};

  constructor(deps: ReadinessDeps) {
    this.#deps = deps;
  }

  /** From now on, until `stop`. */
  start(): void {
    const { after, log } = this.#deps;
    const look = async (): Promise<void> => {
      await this.check().catch((error: unknown) =>
        log.error(errorFields(error), 'looking whether it is ready failed'),
      );
    };
    this.#stop = repeat(look, { everyMs: CHECK_INTERVAL_MS, after });
  }

  async stop(): Promise<void> {
    await this.#stop();
  }

  /** @returns undefined if it is ready */
  async check(): Promise<NotReady | undefined> {
    const { repository, now, log } = this.#deps;
    const why = whyNotReady(repository, now()) ?? (await this.#trouble());
    if (why?.code === this.#logged) return why;
    this.#logged = why?.code;
    if (why) log.error({ code: why.code }, `not ready: ${why.message}`);
    else log.info({}, 'ready again');
    return why;
  }

  /** What is wrong with disk and database, for operators. Such warnings belong to no role: `timestamp` stands for the origin. */
  async warnings(): Promise<Warning[]> {
    const trouble = await this.#trouble();
    if (!trouble) return [];
    const { code, message, hint } = trouble;
    return [{ role: 'timestamp', code, message: hint === undefined ? message : `${message}. ${hint}` }];
  }

  async #trouble(): Promise<SitecastError | undefined> {
    const { state, room } = this.#deps;
    if (state.trouble ?? state.damage) return state.trouble ?? state.damage;
    try {
      await demandRoom(room);
      // Also without a reserve.
      if ((await room.freeBytes()) === 0) return diskFull('origin', room.path);
      return undefined;
    } catch (error) {
      if (error instanceof SitecastError) return error;
      throw error;
    }
  }
}
