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
