import { MemoryStore } from '@sitecast/shared/key-value/testing';
import { Tables } from '../adapters/embedded/tables.ts';

/** The origin's tables in memory, for tests that aren't about storage. */
export class MemoryTables extends Tables {
  readonly memory: MemoryStore;

  constructor(memory = new MemoryStore()) {
    super(memory);
    this.memory = memory;
  }

  /** Other tables with the same content. */
  copy(): MemoryTables {
    const copy = new MemoryTables();
    for (const [key, value] of this.memory.values) copy.memory.values.set(key, value);
    return copy;
  }
}
