import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { builtModule } from '../../built-module.ts';

/** Prints by how many MiB the address space of a process grows with a thread. */
const SCRIPT = `
import { readFileSync } from 'node:fs';
const sizeMib = () => Number(/VmSize:\\s+(\\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
const { FrameWorkers } = await import(process.argv[1]);
const before = sizeMib();
const workers = new FrameWorkers({ threads: 1 });
const [block, body] = [new ArrayBuffer(1024), new ArrayBuffer(8192)];
const one = { block, body, ids: new Uint8Array(32), wanted: Uint8Array.of(1) };
await workers.run({ kind: 'compress', ...one, plainAt: 0, ends: Uint32Array.of(1024) });
console.log(Math.round(sizeMib() - before));
await workers.close();
`;

it.skipIf(process.platform !== 'linux')(
  'a thread takes a few hundred MiB of address space: V8 ends the process with SIGTRAP where it gets too little',
  async () => {
    const built = builtModule(import.meta.url, 'frame-workers').href;
    const args = ['--input-type=module', '-e', SCRIPT, built];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    // More than 700 with V8's own settings, on Node 20 and 26.
    expect(Number(stdout)).toBeGreaterThan(0);
    expect(Number(stdout)).toBeLessThan(600);
  },
);
