import { join } from 'node:path';
import { readCopy, readFileBounded, setAside } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import {
  MAX_BARRED,
  MAX_REMEMBERED_ROLLOUTS,
  type AgentState,
  agentStateSchema,
  newAgentState,
} from './agent-state.ts';
import { withKept } from './rebuild.ts';
import { type DurableFiles, durableFiles } from './durable-files.ts';

const MAX_STATE_BYTES = 1024 * 1024;
const FILE_NAME = 'state.json';

/** A state that couldn't be read. */
export interface StateLoss {
  /** What was wrong, and where the file is now. */
  what: string;
  /** The content of its copy. */
  kept: AgentState | undefined;
}

/**
 * The agent's state, in one file that is replaced atomically. Beside it there is a copy of everything except the update in progress. Only
 * one process at a time owns it.
 */
export class StateFile {
  readonly #path: string;
  readonly #files: DurableFiles;
  #state: AgentState;
  #loss: StateLoss | undefined;
  #isNew: boolean;
  #turn: Promise<void> = Promise.resolve();

  private constructor(path: string, files: DurableFiles, found: Found) {
    this.#path = path;
    this.#files = files;
    this.#state = found.state ?? newAgentState();
    this.#loss = found.loss;
    this.#isNew = found.state === undefined;
  }

  /** Opens the file. A damaged one is set aside, and its content must be rebuilt: see `loss`. */
  static async open(directory: string, files = durableFiles): Promise<StateFile> {
    const path = join(directory, FILE_NAME);
    return new StateFile(path, files, await find(path));
  }

  get current(): AgentState {
    return this.#state;
  }

  /** Set, until the first change, if there was a state that is lost. */
  get loss(): StateLoss | undefined {
    return this.#loss;
  }

  /** True, until the first change, if there was no state as far as the file shows. */
  get isNew(): boolean {
    return this.#isNew;
  }

  /** The change is durable when this resolves; only then `current` changes. Changes are made one after the other. */
  async change(changes: Partial<AgentState> | ((state: AgentState) => Partial<AgentState>)): Promise<void> {
    const done = this.#turn.then(() => this.#change(changes));
    this.#turn = done.catch(() => {
      // The caller has got the error.
    });
    return done;
  }

  async #change(changes: Partial<AgentState> | ((state: AgentState) => Partial<AgentState>)): Promise<void> {
    const changed = typeof changes === 'function' ? changes(this.#state) : changes;
    // Only what the next start can read is written, even if that is by an older release.
    const next = agentStateSchema.parse(bounded({ ...this.#state, ...changed }));
    const text = `${JSON.stringify(next, null, 1)}\n`;
    await this.#files.replace(this.#path, text, 0o600);
    this.#state = next;
    this.#loss = undefined;
    this.#isNew = false;
    if (Object.keys(changed).some(name => name !== 'update')) await this.#keep(text);
  }

  async #keep(text: string): Promise<void> {
    try {
      await this.#files.replaceCopy(this.#path, text);
    } catch (error) {
      // For example a full disk. The file itself is written, and the copy follows with the next change.
      if (!isSystemError(error)) throw error;
    }
  }
}

interface Found {
  state?: AgentState;
  loss?: StateLoss;
}

async function find(path: string): Promise<Found> {
  const found = await read(path);
  const copy = await readCopy(path, MAX_STATE_BYTES);
  const kept = copy && parse(copy);
  if (typeof found === 'object') return { state: withKept(found, kept) };
  if (found === 'damaged')
    return { loss: { what: `${path} was damaged, and is now ${await setAside(path)}`, kept } };
  return kept ? { loss: { what: `${path} was missing`, kept } } : {};
}

async function read(path: string): Promise<AgentState | 'damaged' | 'missing'> {
  try {
    return parse(await readFileBounded(path, MAX_STATE_BYTES)) ?? 'damaged';
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return 'missing';
    // A block that the medium can't read, or something that can't be this file.
    if (isSystemError(error, 'EIO') || error instanceof SitecastError) return 'damaged';
    throw error;
  }
}

function parse(bytes: Buffer): AgentState | undefined {
  try {
    return agentStateSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    // The file holds no agent state.
    return undefined;
  }
}

/** Keeps only the newest entries, so that the file is bounded. */
function bounded(state: AgentState): AgentState {
  return {
    ...state,
    rollouts: state.rollouts.slice(-MAX_REMEMBERED_ROLLOUTS),
    barred: state.barred.slice(-MAX_BARRED),
  };
}
