// Entry of the process in which deltas are made. It holds no secret, opens no file and no socket: it is given bytes and returns bytes.
import { encodePatch } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { BaseSamples } from './base-samples.ts';
import { bsdiff } from './bsdiff.ts';
import { STREAM_ENCODERS } from './encoders.ts';
import type { MakerReply, MakerResults, MakerTask } from './tasks.ts';

let samples = new BaseSamples(0);

process.on('message', (task: MakerTask) => {
  void answer(task).then(reply => process.send?.(reply));
});
// Whoever started it is gone: nobody wants the result.
process.on('disconnect', () => process.exit());

async function answer(task: MakerTask): Promise<MakerReply> {
  try {
    return { result: await carryOut(task) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

async function carryOut(task: MakerTask): Promise<MakerResults[MakerTask['name']]> {
  switch (task.name) {
    case 'begin':
      samples = new BaseSamples(task.baseBytes);
      return undefined;
    case 'sample':
      samples.add(task.bytes, task.offset);
      return undefined;
    case 'find':
      return Float64Array.from(samples.find(task.bytes));
    default:
      return patchOf(task.base, task.target, task.worthBytes);
  }
}

async function patchOf(
  base: Uint8Array,
  target: Uint8Array,
  worthBytes: number,
): Promise<Uint8Array | undefined> {
  try {
    const patch = await encodePatch(bsdiff(base, target), STREAM_ENCODERS);
    return patch.length < worthBytes ? patch : undefined;
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_PATCH_TOO_LARGE') return undefined;
    throw error;
  }
}
