import type { Log } from '../log.ts';
import type { Repository } from '../repository/repository.ts';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { ReadableFiles } from '../storage/files.ts';
import type { Tokens } from '../tokens/tokens.ts';
import type { BodyPace } from './body.ts';
import type { MemoryBudget } from './memory.ts';
import type { Metrics } from './metrics.ts';

/** What the routes use. */
export interface AppDeps {
  repository: Repository;
  chunks: Chunks;
  staged: StagedFiles;
  tokens: Tokens;
  files: ReadableFiles;
  metrics: Metrics;
  /** Memory shared by all request bodies, and how slowly they may come. */
  bodies: { memory: MemoryBudget; pace: BodyPace };
  /** Shared by all files that are sent. */
  responseMemory: MemoryBudget;
  now: () => number;
  log: Log;
}
