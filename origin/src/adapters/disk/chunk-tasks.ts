import type { ErrorCode, ErrorKind } from '@sitecast/shared/errors';
import type { Inspection } from '../../repository/repository-store.ts';
import type { ChunkList, ChunkState, StagedTotals } from '../../staging/ports.ts';

/** What the chunk thread gets at its start. */
export interface ChunkThreadData {
  /** Absolute path of the data directory. */
  root: string;
  maxStagedBytes: number;
}

/** A call of the chunk thread. */
export type ChunkTask =
  | { name: 'missing' | 'unpublished' | 'inspect' | 'repairs' | 'publish' | 'unpublish'; ids: Uint8Array }
  | { name: 'stage'; batch: ArrayBuffer; lengthBytes: number }
  | { name: 'check'; list: ChunkList }
  | { name: 'prune'; beforeMs: number }
  | { name: 'removeUnused'; ids: Uint8Array; beforeMs: number }
  | { name: 'totals' };

/** What the calls return, by name. */
export interface ChunkResults {
  missing: Uint8Array;
  unpublished: Uint8Array;
  inspect: Inspection;
  repairs: Uint8Array;
  publish: undefined;
  unpublish: undefined;
  stage: { batch: ArrayBuffer; stored: number; known: number; error: ThreadError | undefined };
  check: ChunkState[];
  prune: number;
  removeUnused: number;
  totals: StagedTotals;
}

export type ChunkReply<N extends keyof ChunkResults = keyof ChunkResults> =
  | { result: ChunkResults[N] }
  | { error: ThreadError };

/** An error in a form that survives the way between threads. */
export interface ThreadError {
  kind: ErrorKind;
  code: ErrorCode;
  message: string;
  hint: string | undefined;
  data: Record<string, unknown>;
}
