// Entry of the process in which deltas are made. It holds no secrets, and opens no files or sockets: it only exchanges bytes with its
// parent.
import { encodePatch, garbageCollector, writeViews } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { BaseSamples } from './base-samples.ts';
import { bsdiff } from './bsdiff.ts';
import { STREAM_ENCODERS } from './encoders.ts';
import { readLayer } from './opening/squashfs-layer.ts';
import { probeBlock, scanPart } from './opening/scan.ts';
import { openAll, openBaseFor, openTarget } from './opening/window-views.ts';
import type { MakerMessage, MakerReply, MakerResults, MakerTask, WantedPart } from './tasks.ts';

const collectGarbage = garbageCollector();
let samples: BaseSamples | undefined;

/** Called with the part of the image that a task waits for. */
let onPart: (bytes: Uint8Array) => void = () => {};

process.on('message', (message: MakerMessage) => {
  if (message.name === 'part') onPart(message.bytes);
  else void answer(message).then(send);
});
// The parent process is gone, so the results aren't needed.
process.on('disconnect', () => process.exit());

function send(reply: MakerReply): void {
  process.send?.(reply);
}

function partOf(wanted: WantedPart): Promise<Uint8Array> {
  return new Promise(resolve => {
    onPart = resolve;
    send({ wanted });
  });
}

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
      samples?.add(openAll(task).subarray(task.from, task.from + task.length), task.offset);
      return undefined;
    case 'find':
      return Float64Array.from(samples?.find(openAll(task)) ?? []);
    case 'pieces':
      return await readLayer({
        sizeBytes: task.sizeBytes,
        read: (offset, length) => partOf({ offset, length }),
      });
    case 'scan':
      return scanPart(task);
    case 'probe':
      return probeBlock(openAll(task), task.at);
    default:
      // All windows are placed: samples aren't needed any more.
      samples = undefined;
      return patchOf(task);
  }
}

async function patchOf({
  base: baseRange,
  target: targetRange,
  worthBytes,
}: MakerTask & { name: 'patch' }): Promise<Uint8Array | undefined> {
  const target = openTarget(targetRange, targetRange);
  const base = openBaseFor(baseRange, target);
  const isOpened = base.layers.length + target.layers.length > 0;
  const views = isOpened ? writeViews({ base: base.layers, target: target.layers }) : undefined;
  collectGarbage();
  const streams = bsdiff(base.plain, target.plain);
  collectGarbage();
  try {
    const patch = await encodePatch(streams, STREAM_ENCODERS, views);
    return patch.length < worthBytes ? patch : undefined;
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_PATCH_TOO_LARGE') return undefined;
    throw error;
  }
}
