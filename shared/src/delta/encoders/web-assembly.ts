import { readFileSync } from 'node:fs';
import { wrongPiece } from './wrong-piece.ts';

/** The part of WebAssembly's JavaScript API that is used here. Its types belong to the library of browsers, which isn't loaded. */
interface WebAssemblyApi {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { readonly exports: Record<string, Export & Memory> };
  Memory: new (pages: {
    initial: number;
    maximum: number;
    shared: boolean;
  }) => { readonly buffer: ArrayBuffer | SharedArrayBuffer };
}

declare global {
  // eslint-disable-next-line no-var -- TypeScript takes only this as a property of globalThis
  var WebAssembly: WebAssemblyApi;
}

interface Memory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

const PAGE_BYTES = 65_536;
const { Module, Instance } = globalThis.WebAssembly;

type Export = (...numbers: number[]) => number;

/** An instance of a module that Emscripten compiled, with a bound on its memory. */
export interface BoundedInstance {
  /** The exported function of that (minified) name. */
  call(name: string): Export;
  /** All of its memory. Ask again after each call, which may have moved it. */
  memory(): Uint8Array;
}

/** Compiles a module file. Threads can hand the module on to each other: then what V8 has optimized serves all of them. */
export function compiledModule(path: string): object {
  return new Module(readFileSync(path));
}

export function boundedInstance(module: object, memoryName: string, maxMemoryBytes: number): BoundedInstance {
  let memory: Memory | undefined;
  const grow = (bytes: number): number => {
    const needed = bytes >>> 0;
    if (memory === undefined || needed > maxMemoryBytes) return 0;
    const pages = Math.ceil((needed - memory.buffer.byteLength) / PAGE_BYTES);
    if (pages > 0) memory.grow(pages);
    return 1;
  };
  // The imports in the order in which Emscripten's linker names them: failed assertion, more memory, upper half of a 64-bit result.
  const imports = { a: { a: () => wrongPiece('an assertion failed'), b: grow, c: () => {} } };
  const { exports } = new Instance(module, imports);
  const own = exports[memoryName];
  if (own === undefined) wrongPiece('its decoder has no memory');
  memory = own;
  if (own.buffer.byteLength > maxMemoryBytes) wrongPiece('its decoder begins with too much memory');
  return {
    call: name => exports[name] ?? wrongPiece(`its decoder has no function ${name}`),
    memory: () => new Uint8Array(own.buffer),
  };
}
