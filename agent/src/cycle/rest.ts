import type { DeviceState } from '@sitecast/shared/fleet';
import type { Reason } from '../decision/memory.ts';

/** Where a cycle came to rest, and when it's worth another look. */
export interface Rest {
  state: DeviceState;
  reason?: Reason | undefined;
  waitingFor?: string | undefined;
  /** Undefined: at the next poll. */
  retryMs?: number | undefined;
}

/** Thrown by whatever can't go on now, but may later: the update isn't failed. */
export class Postponed extends Error {
  override readonly name = 'Postponed';
  readonly rest: Rest;

  constructor(waitingFor: string, reason: Reason, retryMs?: number) {
    super(reason.message);
    this.rest = { state: 'waiting', waitingFor, reason, retryMs };
  }
}

/** Thrown by whatever ends this attempt. */
export class Failed extends Error {
  override readonly name = 'Failed';
  readonly reason: Reason;

  constructor(reason: Reason) {
    super(reason.message);
    this.reason = reason;
  }
}

/** The reason that an abandoned download is aborted with. */
export class Superseded extends Error {
  override readonly name = 'Superseded';
}
