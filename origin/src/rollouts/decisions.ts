import type { Events } from '../events/events.ts';
import type { Log } from '../log.ts';

/** Something that was decided about a rollout. */
export interface Decision {
  action: string;
  by: string;
  details: Record<string, unknown>;
}

const EVENT_OF_ACTION = new Map([
  ['rollout.start', 'rollout.started'],
  ['rollout.pause', 'rollout.paused'],
  ['rollout.resume', 'rollout.resumed'],
  ['rollout.rollback', 'rollout.rollingBack'],
  ['rollout.abort', 'rollout.aborted'],
  ['rollout.complete', 'rollout.completed'],
  ['rollout.retry', 'rollout.retried'],
]);

/** Tells who listens that it has become true. */
export function tell(
  { events, log }: { events: Events; log: Log },
  rollout: string,
  decision: Decision,
): void {
  const { action, by, details } = decision;
  events.emit({ type: EVENT_OF_ACTION.get(action) ?? action, rollout, data: { by, ...details } });
  log.info({ rollout, by, ...details }, action);
}
