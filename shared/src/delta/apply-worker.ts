// Entry of the worker thread that applies patches. It reads and writes the memory that it was given, and opens no file but the encoders'.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { parentPort, workerData } from 'node:worker_threads';
import { SitecastError } from '../errors.ts';
import { ApplyMemory, applyPatch } from './apply.ts';
import type { ApplyMessage, ApplyTask, ApplyWorkerData } from './apply-tasks.ts';
import { readPatch } from './patch.ts';
import { ownCpuFile } from './thread-cpu.ts';

const shared: ApplyWorkerData = workerData;
// V8 frees memory outside of its heap when 64 MiB of it have gathered: as much as all of this thread may take.
setFlagsFromString('--expose-gc');
const collect: unknown = runInNewContext('gc');
const memory = new ApplyMemory(typeof collect === 'function' ? () => collect() : undefined);

tell({ cpuFile: ownCpuFile() });

parentPort?.on('message', ({ baseLength, patchLength, targetLength }: ApplyTask) => {
  const patch = new Uint8Array(shared.patch, 0, patchLength);
  const base = new Uint8Array(shared.base, 0, baseLength);
  const into = new Uint8Array(shared.target, 0, targetLength);
  // A patch that opens pieces needs memory that isn't used for the next one, whether it succeeds or not.
  let isWorn = true;
  try {
    isWorn = readPatch(patch).views !== undefined;
    applyPatch({ patch, base, targetLength, into, memory });
    tell({ isWorn });
  } catch (error) {
    tell({ failure: describe(error), isWorn });
  }
});

function tell(message: ApplyMessage): void {
  parentPort?.postMessage(message, []);
}

function describe(error: unknown): {
  kind: SitecastError['kind'];
  code: SitecastError['code'];
  message: string;
} {
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
