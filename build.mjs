// Compiles all packages, and bundles the commands; npm runs it after `npm ci`. TypeScript's native compiler takes a quarter of the time of
// TypeScript 6, which stays for tools that load it as a library. Both packages bring a command named tsc, so this one is called by its path.
// It is a development dependency: with `--omit=dev` there is none, and what was built before stays.
import { spawnSync } from 'node:child_process';
import { existsSync, renameSync, rmSync, statSync } from 'node:fs';
import http from 'node:http';
import { fileURLToPath, pathToFileURL } from 'node:url';

const top = new URL('./', import.meta.url);
const path = name => fileURLToPath(new URL(name, top));
const compiler = path('node_modules/@typescript/native/bin/tsc');

/** The modules of each package that are started by `bin/*.js` or by tests. Their threads and processes are found by `startedModules`. */
const STARTED = {
  agent: { main: 'agent/dist/main.js' },
  gateway: { main: 'gateway/dist/main.js' },
  origin: { main: 'origin/dist/main.js', cli: 'origin/dist/cli/main.js' },
  test: { 'operator-process': 'test/dist/src/testbed/operator-process.js' },
};
/** They load files beside them. */
const NOT_BUNDLED = [/^zstd-napi/, /^lzma-native/, 'classic-level'];

const timeOf = name => (existsSync(path(name)) ? statSync(path(name)).mtimeMs : 0);

/** A thread or a child process is started by `builtModule` (shared/src/built-module.ts), whose file becomes an entry of the bundle. */
const startedModules = {
  name: 'started-modules',
  transform(code, id) {
    if (id.includes('/node_modules/') || !/\bnew Worker\(|\bfork\(/.test(code)) return;
    const names = [...code.matchAll(/\bbuiltModule\(import\.meta\.url, '([\w-]+)'\)/g)].map(
      ([, name]) => name,
    );
    if (names.length === 0)
      this.error(
        `${id} starts a module without builtModule(import.meta.url, 'NAME'): it would be missed in the bundle`,
      );
    for (const name of names)
      this.emitFile({
        type: 'chunk',
        fileName: `${name}.js`,
        id: fileURLToPath(new URL(`${name}.js`, pathToFileURL(id))),
      });
  },
};

/** They are read when they are asked for, and load all of undici, the client behind `fetch`. */
const OF_UNDICI = new Set(['WebSocket', 'CloseEvent', 'MessageEvent']);

/**
 * To import `node:http` from an ES module is to read all that it exports: Node 26 loads undici for that, 90 modules that an agent doesn't use. They
 * take 40 ms of CPU time at each start. So bundles take it from `process.getBuiltinModule` (Node 20.16 and later).
 */
const httpAlone = {
  name: 'http-alone',
  resolveId(source, _importer, { kind }) {
    return /^(?:node:)?http$/.test(source) && kind === 'import-statement' ? '\0http-alone' : undefined;
  },
  load(id) {
    if (id !== '\0http-alone') return undefined;
    const names = Object.keys(http).filter(name => !OF_UNDICI.has(name));
    return [
      "const http = process.getBuiltinModule('node:http');",
      'export default http;',
      ...names.map(name => `export const ${name} = http.${name};`),
    ].join('\n');
  },
};

/**
 * V8 keeps the text of each module in memory, with two bytes for each character where one of them isn't Latin-1. Such characters are in strings
 * only, as comments are gone by then, and are written as escapes.
 */
const latin1Text = {
  name: 'latin1-text',
  generateBundle(_, files) {
    for (const file of Object.values(files)) {
      if (file.type !== 'chunk') continue;
      file.code = file.code.replace(
        /[^\0-\xff]/g,
        unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
      );
    }
  },
};

/**
 * A command's hundreds of modules become a few files in `PACKAGE/bundle`, which start in half of the CPU time. They lie as deep as `dist`, all
 * in one folder: what a module finds beside it or above it (its threads, package.json) is found from there, too.
 */
async function bundle(name) {
  const read = [`${name}/dist/.tsbuildinfo`, 'shared/dist/.tsbuildinfo', 'package-lock.json', 'build.mjs'];
  if (timeOf(`${name}/bundle`) > Math.max(...read.map(timeOf))) return;
  const { rolldown } = await import('rolldown');
  const build = await rolldown({
    cwd: path('.'),
    input: STARTED[name],
    platform: 'node',
    external: NOT_BUNDLED,
    plugins: [startedModules, httpAlone, latin1Text],
    logLevel: 'warn',
  });
  const unfinished = path(`${name}/bundle.${process.pid}`);
  await build.write({
    dir: unfinished,
    entryFileNames: '[name].js',
    chunkFileNames: '[name]-[hash].js',
    sourcemap: true,
    comments: { legal: true, annotation: false, jsdoc: false },
  });
  await build.close();
  rmSync(path(`${name}/bundle`), { recursive: true, force: true });
  renameSync(unfinished, path(`${name}/bundle`));
}

if (existsSync(compiler)) {
  process.exitCode = spawnSync(process.execPath, [compiler, '-b'], { stdio: 'inherit' }).status ?? 1;
  if (process.exitCode === 0) for (const name of Object.keys(STARTED)) await bundle(name);
} else if (!existsSync(path('agent/dist/main.js'))) {
  process.stderr.write(
    'Nothing is built: run `npm ci && npm prune --omit=dev` for a checkout that runs without development dependencies.\n',
  );
}
