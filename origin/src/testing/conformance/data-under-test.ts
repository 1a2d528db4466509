// What the suites of the origin's data share: two origins on the same data, and what they store.
import assert from 'node:assert/strict';
import { chunkIdOf } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import type { DataDirectory } from '../../adapters/disk/data-directory.ts';
import type { Commit, FileRef } from '../../repository/repository-store.ts';
import type { FileStaging } from '../../staging/ports.ts';
import { batchOf, hexOf } from '../operator.ts';
import type { TestClock } from '../setup.ts';

/** The stores of two origins that run at the same time on the same data. They are empty at first. */
export interface DataUnderTest {
  one: DataDirectory;
  other: DataDirectory;
  clock: TestClock;
  /** The stores of an origin that starts now. */
  restart: () => Promise<DataDirectory>;
  /** Replaces the bytes of a published file without using the stores. */
  spoil: (file: FileRef) => Promise<void>;
  close: () => Promise<void>;
}

export type OpenData = () => Promise<DataUnderTest>;

export const bytesOf = (text: string): Buffer => Buffer.from(text);
export const chunksOf = (...texts: string[]): Buffer[] => texts.map(bytesOf);
export const idsOf = (chunks: readonly Buffer[]): Buffer =>
  Buffer.concat(chunks.map(chunk => Buffer.from(chunkIdOf(chunk))));
export const isCode = (code: string) => (error: unknown) =>
  error instanceof SitecastError && error.code === code;

/** Uploads a file; gives up what isn't taken. */
export async function upload(staged: FileStaging, bytes: Buffer, sha256 = hexOf(bytes)): Promise<void> {
  const receiver = await staged.receive(sha256);
  try {
    await receiver.write(bytes);
    await receiver.finish();
  } finally {
    await receiver.discard();
  }
}

export async function stage({ chunks }: DataDirectory, plain: readonly Buffer[]) {
  const batch = batchOf(plain);
  const memory = new ArrayBuffer(batch.length);
  new Uint8Array(memory).set(batch);
  const { stored, known, error } = await chunks.stage(memory, batch.length);
  if (error) throw error;
  return { stored, known };
}

export const commitOf = (version: number, more: Partial<Commit> = {}): Commit => ({
  timestamp: bytesOf(`timestamp ${version}`),
  newRoot: undefined,
  metadata: [{ role: 'targets', version, bytes: bytesOf(`targets ${version}`) }],
  targets: [],
  chunks: new Uint8Array(),
  usedVersions: { timestamp: version, snapshot: version, rollouts: 1, deltas: 1 },
  leap: undefined,
  ...more,
});

export async function publish({ published }: DataDirectory, commit: Commit): Promise<void> {
  await published.commit(commit);
  assert.equal((await published.settle()).outcome, 'completed');
}

export const statesOf = ({ chunks }: DataDirectory, plain: readonly Buffer[]) =>
  chunks.check({ ids: idsOf(plain), lengths: Uint32Array.from(plain, ({ length }) => length) });
