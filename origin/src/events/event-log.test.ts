import { describe, it } from 'vitest';
import { testEventStore } from '../testing/conformance/event-store.ts';
import { EventLog, MAX_KEPT_EVENTS } from './event-log.ts';

describe('events in memory', () => {
  testEventStore(it, () => {
    const log = new EventLog(() => Date.parse('2030-01-01T00:00:00Z'));
    return { one: log, other: log, maxKept: MAX_KEPT_EVENTS };
  });
});
