// Entry of the worker thread that applies patches. It works on the shared memory, and opens no file but those of the encoders.
import { setFlagsFromString } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { SitecastError } from '../errors.ts';
import { applyPatch } from './apply.ts';
import { LzmaDecoder } from './codecs/lzma.ts';
import { ReusedMemory } from './apply-memory.ts';
import type { ApplyFailure, ApplyMessage, ApplyTask, ApplyThreadData } from './apply-tasks.ts';
import { type PieceCodec, pieceCodec, releaseCodecs } from './encoders/index.ts';
import { Lz4Decoder } from './encoders/lz4-block.ts';
import { Lz4HcEncoder } from './encoders/lz4-hc.ts';
import { Lz4MatchFinder } from './encoders/lz4-match.ts';
import { compiledZstd, takeCompiledZstd } from './encoders/zstd.ts';
import { garbageCollector } from './garbage.ts';
import { keepAlive } from './kept-alive.ts';
import { MAX_OPENED_TARGET_BYTES } from './limits.ts';
import { ownPages } from './pages.ts';
import { readPatch } from './patch.ts';
import { ownCpuFile } from './thread-cpu.ts';
import { readViews } from './views.ts';

const shared: ApplyThreadData = workerData;
// The optimizing compiler takes some MiB for each function of zstd that it compiles: one function at a time.
setFlagsFromString('--wasm-num-compilation-tasks=1');
const memory = new ReusedMemory(ownPages, garbageCollector());

const none = new Uint8Array();
keepAlive(() => new LzmaDecoder(none));
keepAlive(() => new Lz4HcEncoder(none, none));
keepAlive(() => new Lz4MatchFinder(none, 0));
keepAlive(() => new Lz4Decoder(none, none));

takeCompiledZstd(shared.compiled);
tell({ cpuFile: ownCpuFile() });

parentPort?.on('message', (task: ApplyTask) => {
  // Memory that codecs leave in the C library's heap is freed only with the thread. Other memory is freed at once.
  let isWorn = true;
  let failure: ApplyFailure | undefined;
  try {
    const codecs = apply(task);
    isWorn = codecs.some(({ wearsThread }) => wearsThread);
    if (codecs.length > 0) release();
  } catch (error) {
    failure = describe(error);
    release();
  }
  tell({ failure, isWorn, compiled: isWorn ? compiledZstd() : undefined });
});

function release(): void {
  releaseCodecs();
  memory.forgetStreams();
  memory.release();
}

/** Applies one patch. @returns the codecs of the pieces that the patch opened */
function apply({ baseOffset, baseLength, patchLength, targetLength }: ApplyTask): PieceCodec[] {
  const patch = new Uint8Array(shared.patch, 0, patchLength);
  applyPatch({
    patch,
    base: new Uint8Array(shared.base, baseOffset, baseLength),
    targetLength,
    into: new Uint8Array(shared.target, 0, targetLength),
    // The memory of the result, which isn't written before pieces are closed.
    beside: new Uint8Array(shared.target),
    // The memory of the base, which isn't read again after it was opened.
    spare: new Uint8Array(shared.base, 0, MAX_OPENED_TARGET_BYTES),
    memory,
  });
  const { views } = readPatch(patch);
  if (views === undefined) return [];
  const { base, target } = readViews(views);
  return [...base, ...target].map(({ codec }) => pieceCodec(codec));
}

function tell(message: ApplyMessage): void {
  parentPort?.postMessage(message, []);
}

function describe(error: unknown): ApplyFailure {
  if (error instanceof SitecastError) {
    const { kind, code, message } = error;
    return { kind, code, message };
  }
  return {
    kind: 'failed',
    code: 'SITECAST_PATCH_WORKER',
    message: `the patch can't be applied: ${String(error)}`,
  };
}
