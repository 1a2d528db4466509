import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { MadePatch } from './fixtures.ts';

/** Applies patches in turn, several times, in a process of its own. Prints by how many KiB its peak memory grew. */
const PEAK = `
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
const [module, ...patches] = process.argv.slice(1);
const peak = () => Number(/VmHWM:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))[1]);
const { PatchApplier } = await import(module);
const idle = peak();
const applier = new PatchApplier();
const load = (path, memory) => {
  const file = openSync(path);
  const bytes = memory(fstatSync(file).size);
  readSync(file, bytes);
  closeSync(file);
  return bytes;
};
for (let count = 0; count < 4 * patches.length; count += 1) {
  const [name, targetLength] = patches[count % patches.length].split('=');
  const base = load(name + '.base', length => applier.baseMemory(length));
  const patch = load(name + '.patch', length => applier.patchMemory(length));
  await applier.apply({ patch, base, targetLength: Number(targetLength), maxMs: Infinity });
}
await applier.close();
console.log(peak() - idle);
`;

/**
 * Applies patches in turn, four times, in a process of its own that runs the built code.
 * @returns by how many bytes its peak memory (VmHWM, threads included) grew
 */
export async function peakAboveIdle(patches: readonly MadePatch[]): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-peak-'));
  try {
    const places: string[] = [];
    for (const [at, { base, patch, target }] of patches.entries()) {
      const name = join(directory, String(at));
      await writeFile(`${name}.base`, base);
      await writeFile(`${name}.patch`, patch);
      places.push(`${name}=${target.length}`);
    }
    const module = new URL('../../../dist/delta/index.js', import.meta.url);
    const args = ['--input-type=module', '-e', PEAK, module.href, ...places];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    return 1024 * Number(stdout);
  } finally {
    await rm(directory, { recursive: true });
  }
}
