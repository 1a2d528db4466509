import { join } from 'node:path';
import { readFileBounded, writeFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  MAX_BARRED,
  MAX_REMEMBERED_ROLLOUTS,
  type Memory,
  memorySchema,
  newMemory,
} from '../decision/memory.ts';
import type { PassPoint } from '../ports.ts';

const MAX_MEMORY_BYTES = 1024 * 1024;
const FILE_NAME = 'state.json';

/** The agent's memory, in one atomically replaced file. One process at a time owns it. */
export class MemoryFile {
  readonly #path: string;
  readonly #passPoint: PassPoint;
  #memory: Memory;
  #turn: Promise<void> = Promise.resolve();

  private constructor(path: string, passPoint: PassPoint, memory: Memory) {
    this.#path = path;
    this.#passPoint = passPoint;
    this.#memory = memory;
  }

  /** @throws SITECAST_STATE_INVALID: it's never replaced by itself, for it says which releases failed here */
  static async open(directory: string, passPoint: PassPoint): Promise<MemoryFile> {
    const path = join(directory, FILE_NAME);
    return new MemoryFile(path, passPoint, (await read(path)) ?? newMemory());
  }

  get current(): Memory {
    return this.#memory;
  }

  /** Durable once it returns; what's remembered changes only then. Changes wait for each other. */
  async change(changes: Partial<Memory> | ((memory: Memory) => Partial<Memory>)): Promise<void> {
    const done = this.#turn.then(() => this.#change(changes));
    this.#turn = done.catch(() => {
      // The caller has got the error.
    });
    return done;
  }

  async #change(changes: Partial<Memory> | ((memory: Memory) => Partial<Memory>)): Promise<void> {
    const changed = typeof changes === 'function' ? changes(this.#memory) : changes;
    // What is written is what the next start, of the release before too, can read.
    const next = memorySchema.parse(bounded({ ...this.#memory, ...changed }));
    this.#passPoint('state before');
    await writeFileDurably(this.#path, `${JSON.stringify(next, null, 1)}\n`, 0o600);
    this.#memory = next;
    this.#passPoint('state after');
  }
}

async function read(path: string): Promise<Memory | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readFileBounded(path, MAX_MEMORY_BYTES);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw error;
  }
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw invalid(path, 'is not JSON', cause);
  }
  const parsed = memorySchema.safeParse(value);
  if (!parsed.success) throw invalid(path, 'is not the state of an agent', parsed.error);
  return parsed.data;
}

/** The newest of each, so that the file can't grow for ever. */
function bounded(memory: Memory): Memory {
  return {
    ...memory,
    rollouts: memory.rollouts.slice(-MAX_REMEMBERED_ROLLOUTS),
    barred: memory.barred.slice(-MAX_BARRED),
  };
}

function invalid(path: string, what: string, cause: unknown): SitecastError {
  return new SitecastError('failed', 'SITECAST_STATE_INVALID', `${path} ${what}`, {
    hint: 'restore it from a backup; or move the data directory away to enrol this device anew',
    cause,
  });
}
