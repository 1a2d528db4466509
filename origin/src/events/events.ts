import type { OutcomeChange } from '../fleet/intake-round.ts';

/** Something that happened in the fleet. */
export interface FleetEvent {
  /**
   * `rollout.started` `rollout.stage` `rollout.paused` `rollout.resumed` `rollout.rollingBack` `rollout.aborted`
   * `rollout.completed` `rollout.retried` `device.outcome` `gateway.silent` `gateway.heard` …
   */
  type: string;
  rollout?: string;
  device?: string;
  /** The device's, where it has one. */
  name?: string | undefined;
  data: Record<string, unknown>;
}

export interface Events {
  emit(event: FleetEvent): void;
}

/** An event as it is sent. */
export interface KeptEvent {
  /** From 1 in each epoch. */
  seq: number;
  type: string;
  rollout: string | undefined;
  /** JSON: when, about what, and what. */
  text: string;
}

/**
 * The newest events, for readers that come back. Nothing depends on them; what lasts is in the audit log and the reports. Any origin may emit at any
 * time: an event's place is given by the store.
 */
export interface EventStore extends Events {
  /** Number of the newest event; 0 before the first. */
  readonly newest: number;
  /** The id by which a reader says up to where it has read. */
  idOf(seq: number): string;
  /** The number in an id whose successors are all kept; undefined for any other id. */
  resumable(id: string): number | undefined;
  /** Events after this number, in order; undefined where some of them are no longer kept. */
  after(seq: number, limit: number): KeptEvent[] | undefined;
  /** Calls after every event; the function returned ends that. */
  onEvent(listener: () => void): () => void;
}

/** Emits an event for each device that came to another state in a rollout. */
export function tellOutcomes(
  events: Events,
  changes: readonly OutcomeChange[],
  nameOf: (deviceId: string) => string | undefined,
): void {
  for (const { rolloutId, deviceId, before, after } of changes) {
    const { attempt, state, reason } = after;
    if (before?.attempt === attempt && before.state === state) continue;
    const data = { attempt, state, ...(reason && { reason }) };
    events.emit({
      type: 'device.outcome',
      rollout: rolloutId,
      device: deviceId,
      name: nameOf(deviceId),
      data,
    });
  }
}
