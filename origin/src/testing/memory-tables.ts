import { MemoryStore } from '@sitecast/shared/key-value/testing';
import { Tables } from '../adapters/embedded/tables.ts';

/** The origin's tables in memory, for tests that are about something else. */
export class MemoryTables extends Tables {
  readonly memory: MemoryStore;

  constructor(memory = new MemoryStore()) {
    super(memory);
    this.memory = memory;
  }

  /** Other tables that hold the same. */
  copy(): MemoryTables {
    const copy = new MemoryTables();
    for (const [key, value] of this.memory.values) copy.memory.values.set(key, value);
    return copy;
  }
}
