import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { Events } from './events.ts';

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
