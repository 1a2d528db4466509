import { MemoryStore } from '@sitecast/shared/key-value/testing';
import { FleetTables } from '../fleet/tables.ts';

/** The fleet's store in memory, for tests that are about something else. */
export class MemoryFleet extends FleetTables {
  readonly memory: MemoryStore;

  constructor(memory = new MemoryStore()) {
    super(memory);
    this.memory = memory;
  }

  /** Another one that holds the same. */
  copy(): MemoryFleet {
    const copy = new MemoryFleet();
    for (const [key, value] of this.memory.values) copy.memory.values.set(key, value);
    return copy;
  }
}
