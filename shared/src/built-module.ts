import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';

/**
 * The built file of a module that is started as a thread or as a process, and that lies beside the module that starts it. Node 20 starts
 * built files only: where sources run, as in tests, it's the file that was built of them (`src` to `dist`). A bundle holds each of these
 * modules as an entry of its own, because `build.mjs` finds the calls of this function: both arguments are to stand in the call itself.
 *
 * @param caller `import.meta.url` of the module that starts it
 * @param name of the module's file, without `.ts`
 */
export function builtModule(caller: string, name: string): URL {
  if (!caller.endsWith('.ts')) return new URL(`./${name}.js`, caller);
  const source = new URL(`./${name}.js`, caller).href;
  const at = source.lastIndexOf('/src/');
  return new URL(`${source.slice(0, at)}/dist/${source.slice(at + '/src/'.length)}`);
}

/**
 * Limits of every worker thread. V8 reserves address space for the code of each thread, 128 MiB and more unless told otherwise. Where that
 * fails, as with `ulimit -v` or without overcommit, it ends the whole process with SIGTRAP, and nothing can catch that.
 */
export const THREAD_LIMITS = { codeRangeSizeMb: 16 } as const;

/** For how long a thread may finish what it is doing. */
const END_WITHIN_MS = 5000;

/**
 * Ends a thread once its task is done; it must close its port when it gets `null`. Where it is ended in the middle of compressing, Node 26
 * (26.10: "close before init", node_zlib.cc) ends the whole process now and then.
 */
export async function endThread(worker: Worker): Promise<void> {
  if (worker.threadId === -1) return;
  const isOver = new AbortController();
  const ended = once(worker, 'exit', { signal: isOver.signal }).catch(() => undefined);
  const giveUp = setTimeout(() => isOver.abort(), END_WITHIN_MS);
  worker.postMessage(null, []);
  await ended;
  clearTimeout(giveUp);
  await worker.terminate();
}
